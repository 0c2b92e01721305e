#![allow(clippy::unwrap_used)]

use super::*;

const WHOLE: &str = r#"
[node]
id = "alpha-1"
cluster = "production"
data_root = "/var/lib/engram"

[listen]
replication = "10.0.0.1:7420"
admin = "[::1]:9000"

[[replica]]
id = "alpha-2"
address = "10.0.0.2:7420"

[[replica]]
id = "alpha-3"
address = "10.0.0.3:7420"

[io]
backend = "uring"
strategy = "send_zc"
shards = 4

[batch]
max_records = 1_000
max_delay = "2ms"
max_bytes = "256KiB"

[durability]
level = "written"

[retention]
max_bytes = "64GiB"
max_age = "36h"
max_disk_share = 5
seed_bytes_per_second = "100MiB"

[wal]
checksums = "optional"
"#;

const LEAST: &str = "[node]\nid = \"one\"\ncluster = \"test\"\ndata_root = \"/data\"\n";

fn refusal(text: &str) -> String {
    Config::parse(text, "node.toml").unwrap_err().to_string()
}

fn with(more: &str) -> String {
    refusal(&format!("{LEAST}{more}"))
}

#[test]
fn every_setting_acts() {
    let config = Config::parse(WHOLE, "node.toml").unwrap();
    assert_eq!(config.node.id.as_str(), "alpha-1");
    assert_eq!(config.node.cluster.as_str(), "production");
    assert_eq!(config.node.data_root, Path::new("/var/lib/engram"));
    assert_eq!(config.node.state_dir, Path::new("/var/lib/engram/.saltus"));
    assert_eq!(config.listen.replication, "10.0.0.1:7420".parse().ok());
    assert_eq!(config.listen.admin.to_string(), "[::1]:9000");
    assert_eq!(config.replicas.len(), 2);
    assert_eq!(config.replicas[1].id.as_str(), "alpha-3");
    assert_eq!(config.replicas[1].address.to_string(), "10.0.0.3:7420");
    assert_eq!(config.io.backend, BackendChoice::Uring);
    assert_eq!(config.io.strategy, Strategy::SendZc);
    assert_eq!(config.io.shards, 4);
    assert_eq!(config.batch.max_records, 1000);
    assert_eq!(config.batch.max_delay, Duration::from_millis(2));
    assert_eq!(config.batch.max_bytes, 256 << 10);
    assert_eq!(config.durability.level, DurabilityLevel::Written);
    assert_eq!(config.retention.max_bytes, Some(64 << 30));
    assert_eq!(config.retention.max_age, Some(Duration::from_secs(36 * 3600)));
    assert_eq!(config.retention.max_disk_share, 5);
    assert_eq!(config.retention.seed_bytes_per_second, Some(100 << 20));
    assert_eq!(config.wal.checksums, Checksums::Optional);
}

#[test]
fn what_is_kept_for_replicas_is_always_bounded() {
    let least = Config::parse(LEAST, "node.toml").unwrap().retention;
    assert_eq!((least.max_bytes, least.max_age, least.max_disk_share), (None, None, 20));
    for (setting, wrong, range) in [
        ("max_disk_share", "0", "from 1 to 90"),
        ("max_disk_share", "91", "from 1 to 90"),
        ("max_disk_share", "-5", "from 1 to 90"),
        ("max_bytes", "0", "from 64KiB to 1024TiB"),
        ("max_bytes", "\"1KiB\"", "from 64KiB to 1024TiB"),
        ("max_bytes", "\"1025TiB\"", "from 64KiB to 1024TiB"),
        ("max_bytes", "\"99999999999999TiB\"", "from 64KiB to 1024TiB"),
        ("max_age", "\"0\"", "from 1s to 31622400s"),
        ("max_age", "\"1ms\"", "from 1s to 31622400s"),
        ("max_age", "\"367d\"", "from 1s to 31622400s"),
        ("seed_bytes_per_second", "0", "from 64KiB to 1TiB"),
        ("seed_bytes_per_second", "\"2TiB\"", "from 64KiB to 1TiB"),
    ] {
        let said = with(&format!("[retention]\n{setting} = {wrong}\n"));
        let all = said.contains(&format!("retention.{setting}")) && said.contains(range);
        assert!(all && said.contains("node.toml:6:"), "{setting} = {wrong}: {said}");
    }
}

#[test]
fn the_rest_has_defaults() {
    let config = Config::parse(LEAST, "node.toml").unwrap();
    assert_eq!(config.listen.replication, None);
    assert_eq!(config.listen.admin.to_string(), DEFAULT_ADMIN);
    assert!(config.replicas.is_empty());
    assert_eq!(config.io.backend, BackendChoice::Auto);
    assert_eq!(config.io.strategy, Strategy::Auto);
    assert_eq!(config.io.shards, 1);
    assert_eq!(config.batch.max_records, 100);
    assert_eq!(config.batch.max_delay, Duration::from_millis(10));
    assert_eq!(config.batch.max_bytes, 2 << 20);
    assert_eq!(config.durability.level, DurabilityLevel::Flushed);
    assert_eq!(config.wal.checksums, Checksums::Required);
}

#[test]
fn unknown_key_is_refused_with_its_place_and_the_nearest() {
    assert_eq!(
        with("[io]\nshards = 1\nbackened = \"auto\"\n"),
        "node.toml:7:1: unknown key \"backened\" (did you mean \"backend\"?); \
         allowed here: backend, strategy, shards, first_core"
    );
    assert_eq!(
        with("[duribility]\nlevel = \"flushed\"\n").split(';').next().unwrap(),
        "node.toml:5:2: unknown section \"duribility\" (did you mean \"durability\"?)"
    );
    let far = with("[io]\nringsize = 8\n");
    assert!(!far.contains("did you mean"), "{far}");
    let replica = with("[[replica]]\nid = \"two\"\nadress = \"10.0.0.2:1\"\n");
    assert!(
        replica.starts_with("node.toml:7:1: unknown key \"adress\" (did you mean \"address\"?)")
    );
}

#[test]
fn first_of_several_unknown_keys_is_named() {
    let text = with("[io]\nzz = 1\naa = 2\n");
    assert!(text.starts_with("node.toml:6:1: unknown key \"zz\""), "{text}");
}

#[test]
fn value_out_of_range_is_refused_with_the_range() {
    assert_eq!(
        with("[io]\nshards = 0\n"),
        "node.toml:6:10: io.shards: found 0, expected a whole number from 1 to 64"
    );
    assert_eq!(
        with("[batch]\nmax_delay = \"2s\"\n"),
        "node.toml:6:13: batch.max_delay: found \"2s\", expected a duration from 0ns to 1s, \
         as \"500us\", \"10ms\" or \"1s\""
    );
    // A plain 0 needs no unit, but it must be in the range as well.
    let none = Config::parse(&format!("{LEAST}[batch]\nmax_delay = 0\n"), "node.toml").unwrap();
    assert_eq!(none.batch.max_delay, Duration::ZERO);
    assert!(with("[scrub]\ninterval = 0\n").contains("scrub.interval: found 0, expected"));
    assert!(with("[batch]\nmax_delay = 1\n").contains("batch.max_delay: found 1, expected"));
    assert_eq!(
        with("[batch]\nmax_bytes = 65535\n"),
        "node.toml:6:13: batch.max_bytes: found 65535, expected a size from 64KiB to 2048KiB, \
         as \"256KiB\""
    );
    for wrong in ["-1", "32769", "1.5", "\"100\"", "true", "99999999999999999999"] {
        let text = with(&format!("[batch]\nmax_records = {wrong}\n"));
        assert!(text.starts_with("node.toml:6:15: batch.max_records: found "), "{text}");
        assert!(text.ends_with("expected a whole number from 1 to 32768"), "{text}");
    }
}

#[test]
fn value_that_is_no_choice_is_refused_with_the_choices() {
    assert_eq!(
        with("[io]\nstrategy = \"fast\"\n"),
        "node.toml:6:12: io.strategy: found \"fast\", expected one of \"auto\", \"sendfile\", \
         \"splice\", \"send_zc\", \"copy\""
    );
    assert!(with("[durability]\nlevel = 1\n").ends_with("one of \"flushed\", \"written\""));
    assert!(with("[wal]\nchecksums = \"no\"\n").ends_with("one of \"required\", \"optional\""));
}

#[test]
fn missing_key_names_its_section() {
    assert_eq!(
        refusal("# nothing yet\n[node]\ncluster = \"test\"\ndata_root = \"/data\"\n"),
        "node.toml:2:1: node.id is missing: expected 3 to 64 characters of a-z, 0-9, '_' and \
         '-', in quotes"
    );
    assert!(refusal("").starts_with("node.toml:1:1: node.data_root is missing"));
    assert!(with("[[replica]]\nid = \"two\"\n").starts_with("node.toml:5:1: replica.address is"));
}

#[test]
fn relative_data_root_is_refused() {
    let text = refusal("[node]\nid = \"one\"\ncluster = \"test\"\ndata_root = \"data\"\n");
    assert!(text.starts_with("node.toml:4:13: node.data_root: found \"data\""), "{text}");
}

#[test]
fn bad_id_is_refused() {
    let text = refusal("[node]\nid = \"A\"\ncluster = \"test\"\ndata_root = \"/data\"\n");
    assert!(text.starts_with("node.toml:2:6: node.id: found \"A\", expected 3 to 64"), "{text}");
}

#[test]
fn replicas_are_distinct_and_not_this_node() {
    let replica =
        |id: &str, address: &str| format!("[[replica]]\nid = \"{id}\"\naddress = \"{address}\"\n");
    let two = |a: String, b: String| with(&format!("{a}{b}"));
    assert!(
        two(replica("two", "10.0.0.2:1"), replica("two", "10.0.0.3:1"))
            .starts_with("node.toml:9:6: replica.id: two stands here twice")
    );
    assert!(
        two(replica("two", "10.0.0.2:1"), replica("three", "10.0.0.2:1"))
            .starts_with("node.toml:10:11: replica.address: 10.0.0.2:1 is the address of two")
    );
    assert!(with(&replica("one", "10.0.0.2:1")).contains("one is this node itself"));
    assert!(with(&replica("two", "0.0.0.0:7420")).contains("no address to connect to"));
    assert!(with(&replica("two", "10.0.0.2:0")).contains("no address to connect to"));
    assert!(with(&replica("two", "db.example:7420")).contains("expected an IP address"));
    let own = format!("[listen]\nreplication = \"10.0.0.1:1\"\n{}", replica("two", "10.0.0.1:1"));
    assert!(with(&own).contains("where this node itself listens"));
}

#[test]
fn one_port_cannot_serve_both_purposes() {
    let text = with("[listen]\nreplication = \"127.0.0.1:7421\"\n");
    assert!(text.starts_with("node.toml:6:15: listen.replication: 127.0.0.1:7421 is"), "{text}");
    let free = format!("{LEAST}[listen]\nreplication = \"127.0.0.1:0\"\nadmin = \"127.0.0.1:0\"\n");
    assert!(Config::parse(&free, "node.toml").is_ok());
}

#[test]
fn sections_of_the_wrong_shape_are_refused() {
    assert!(with("[[io]]\nshards = 1\n").contains("expected a section, [io]"));
    assert!(with("[replica]\nid = \"two\"\n").contains("expected [[replica]]"));
    assert!(refusal("node = 3\n").starts_with("node.toml:1:8: node: found 3, expected a section"));
}

#[test]
fn broken_toml_names_the_place() {
    let text = refusal("[node]\nid = \"one\ncluster = 3\n");
    assert!(text.starts_with("node.toml:2:"), "{text}");
    assert!(text.contains("not valid TOML"), "{text}");
}

#[test]
fn column_counts_characters() {
    let text = with("[listen] # \u{e9}\nadmin = \"\u{e9}\"\n");
    assert!(text.starts_with("node.toml:6:9: listen.admin"), "{text}");
    let text =
        refusal(&format!("listen = {{ admin = \"\u{e9}\u{e9}\", replication = 1 }}\n{LEAST}"));
    assert!(text.starts_with("node.toml:1:40: listen.replication: found 1"), "{text}");
}

#[test]
fn data_root_that_is_absent_is_refused_at_load() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("node.toml");
    let root = directory.path().join("data");
    let text =
        format!("[node]\nid = \"one\"\ncluster = \"test\"\ndata_root = \"{}\"\n", root.display());
    fs::write(&file, text).unwrap();
    let refusal = Config::load(&file).unwrap_err().to_string();
    assert!(refusal.contains("node.toml:4:13: node.data_root: "), "{refusal}");
    assert!(refusal.contains("mkdir -p"), "{refusal}");
    fs::write(&root, "").unwrap();
    assert!(Config::load(&file).unwrap_err().to_string().contains("not a directory"));
    fs::remove_file(&root).unwrap();
    fs::create_dir(&root).unwrap();
    assert!(Config::load(&file).is_ok());
}

/// What is refused of a file whose data root exists.
fn refused_at_load(state_dir: Option<&Path>, more: &str) -> Option<String> {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("node.toml");
    let root = directory.path().display();
    let mut text = format!("[node]\nid = \"one\"\ncluster = \"test\"\ndata_root = \"{root}\"\n");
    if let Some(state_dir) = state_dir {
        let state_dir = directory.path().join(state_dir);
        text += &format!("state_dir = \"{}\"\n", state_dir.display());
    }
    fs::write(&file, text + more).unwrap();
    Config::load(&file).err().map(|error| error.to_string())
}

#[test]
fn state_dir_on_another_file_system_is_refused_at_load() {
    use std::os::unix::fs::MetadataExt;
    let device = |path: &Path| fs::metadata(path).map(|metadata| metadata.dev()).ok();
    let shared = Path::new("/dev/shm");
    if !shared.is_dir() || device(shared) == device(&std::env::temp_dir()) {
        return crate::skipped::skipped("no second file system at /dev/shm");
    }
    // It need not be there yet.
    let refusal = refused_at_load(Some(&shared.join("saltus/state")), "").unwrap();
    assert!(refusal.contains("node.toml:5:13: node.state_dir: /dev/shm/saltus/state"), "{refusal}");
    assert!(refusal.contains("node.data_root /"), "{refusal}");
    assert!(refusal.contains("two file systems"), "{refusal}");
    assert!(!shared.join("saltus").exists(), "a check leaves nothing behind");
    assert_eq!(refused_at_load(Some(Path::new("deep/state")), ""), None);
}

#[test]
fn state_dir_that_cannot_be_one_is_refused_at_load() {
    let refusal = refused_at_load(Some(Path::new("node.toml")), "").unwrap();
    assert!(refusal.contains("node.toml:5:13: node.state_dir: "), "{refusal}");
    assert!(refusal.contains("not a directory"), "{refusal}");
    let refusal = refused_at_load(Some(Path::new("")), "");
    assert!(refusal.is_some_and(|refusal| refusal.contains("node.data_root itself")));
}

#[test]
fn core_that_the_machine_does_not_have_is_refused_at_load() {
    let refusal = refused_at_load(None, "[io]\nfirst_core = 959\n").unwrap();
    assert!(refusal.contains("node.toml:6:14: io.first_core: shard 0 would run on core 959"));
    // The shards behind the first one count as well.
    let refusal = refused_at_load(None, "[io]\nfirst_core = 0\nshards = 64\n");
    let cores = std::thread::available_parallelism().unwrap().get();
    assert_eq!(refusal.is_some(), cores < 64, "{refusal:?}");
}

#[test]
fn way_of_io_uring_is_refused_on_the_portable_backend() {
    for strategy in ["splice", "send_zc"] {
        let io = format!("[io]\nbackend = \"portable\"\nstrategy = \"{strategy}\"\n");
        let refusal = with(&io);
        let at = format!("node.toml:7:12: io.strategy: {strategy} is a way of io_uring");
        assert!(refusal.starts_with(&at), "{refusal}");
    }
    let fine = format!("{LEAST}[io]\nbackend = \"portable\"\nstrategy = \"copy\"\n");
    assert!(Config::parse(&fine, "node.toml").is_ok());
}

#[test]
fn unreadable_file_is_named() {
    let error = Config::load(Path::new("/no/such/node.toml")).unwrap_err().to_string();
    assert!(error.starts_with("cannot read the configuration /no/such/node.toml: "), "{error}");
}

#[test]
fn example_file_is_valid_and_shows_the_defaults() {
    let text = include_str!("../../deploy/saltus.example.toml");
    let example = Config::parse(text, "saltus.example.toml").unwrap();
    let least = Config::parse(LEAST, "node.toml").unwrap();
    assert_eq!(example.listen.admin, least.listen.admin);
    assert_eq!(format!("{:?}", example.io), format!("{:?}", least.io));
    assert_eq!(format!("{:?}", example.batch), format!("{:?}", least.batch));
    assert_eq!(format!("{:?}", example.durability), format!("{:?}", least.durability));
    assert_eq!(format!("{:?}", example.retention), format!("{:?}", least.retention));
    assert_eq!(format!("{:?}", example.wal), format!("{:?}", least.wal));
}
