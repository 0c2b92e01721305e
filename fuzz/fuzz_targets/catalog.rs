#![no_main]

#[path = "../targets/mod.rs"]
mod targets;

libfuzzer_sys::fuzz_target!(
    init: {
        // libFuzzer's hook ends the process at any panic, also at one that the
        // catalog is about to catch and to answer for. All others, caught or
        // not, end it as before.
        let fails = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !targets::catalog::is_answered_for(panic.location()) {
                fails(panic);
            }
        }));
    },
    |data: &[u8]| targets::catalog::run(data)
);
