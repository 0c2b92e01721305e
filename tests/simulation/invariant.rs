//! The ten invariants, in the words of `docs/ARCHITECTURE.md`.
//!
//! What a check says begins with the one that does not hold. Two things have no
//! number: "Liveness", that all comes to be everywhere once nothing goes wrong any
//! more; and what no node may do at all, to panic, or to send what is no frame.

use std::fmt;

/// What holds whatever happens.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Invariant {
    Prefix,
    Verified,
    Flushed,
    Loss,
    Corrupt,
    Epochs,
    Isolation,
    Bounds,
    Blocking,
    Equality,
}

impl Invariant {
    /// Each with its name, in the order of their numbers.
    const ALL: [(Self, &str); 10] = [
        (Self::Prefix, "Prefix"),
        (Self::Verified, "Verified before durable"),
        (Self::Flushed, "Flushed means flushed"),
        (Self::Loss, "Nothing is lost quietly"),
        (Self::Corrupt, "Corrupt is not absent"),
        (Self::Epochs, "Stale epochs are refused"),
        (Self::Isolation, "One slow replica hurts nobody"),
        (Self::Bounds, "Everything is bounded"),
        (Self::Blocking, "Never block a data core"),
        (Self::Equality, "Equality is proven, not assumed"),
    ];
}

impl fmt::Display for Invariant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (_, name) = Self::ALL[*self as usize];
        f.write_str(name)
    }
}

#[test]
fn the_invariants_have_the_names_that_the_documents_give_them() {
    let architecture = include_str!("../../docs/ARCHITECTURE.md");
    let testing = include_str!("../../docs/TESTING.md");
    for (index, (invariant, name)) in Invariant::ALL.into_iter().enumerate() {
        let number = index + 1;
        assert_eq!(invariant.to_string(), name);
        assert!(architecture.contains(&format!("\n{number}. **{name}.**")), "{number}: {name}");
        assert!(testing.contains(&format!("\n| {number} {name} |")), "{number}: {name}");
    }
}
