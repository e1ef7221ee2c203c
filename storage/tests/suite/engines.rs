//! The engines under test.

use std::{path::Path, sync::Arc};

use mhc_storage::{
    kv::{
        Engine, KvError,
        memory::Memory,
        redb::{Redb, RedbOptions},
    },
    record::EngineOpener,
};

type Open = fn(&Path) -> Result<Box<dyn Engine>, KvError>;

/// An engine and what it can do.
#[derive(Clone, Copy)]
pub(crate) struct Subject {
    pub(crate) name: &'static str,
    pub(crate) open: Open,
    /// Survives the process.
    pub(crate) persists: bool,
    /// Its read transactions don't see later commits.
    pub(crate) isolates: bool,
}

impl Subject {
    pub(crate) fn opener(self) -> EngineOpener {
        Arc::new(self.open)
    }

    pub(crate) fn named(name: &str) -> Self {
        SUBJECTS.iter().copied().find(|subject| subject.name == name).unwrap()
    }
}

pub(crate) const SUBJECTS: &[Subject] = &[
    Subject { name: "memory", open: |_| Ok(Box::new(Memory::new())), persists: false, isolates: true },
    Subject {
        name: "redb",
        open: |dir| Ok(Box::new(Redb::open(&dir.join("records.redb"), &RedbOptions::default())?)),
        persists: true,
        isolates: true,
    },
    #[cfg(feature = "engine-fjall")]
    Subject {
        name: "fjall",
        open: |dir| Ok(Box::new(mhc_storage::kv::fjall::Fjall::open(&dir.join("records.fjall"), CACHE_BYTES)?)),
        persists: true,
        isolates: true,
    },
    #[cfg(feature = "engine-sled")]
    Subject {
        name: "sled",
        open: |dir| Ok(Box::new(mhc_storage::kv::sled::Sled::open(&dir.join("records.sled"), CACHE_BYTES)?)),
        persists: true,
        isolates: false,
    },
];

#[cfg(any(feature = "engine-fjall", feature = "engine-sled"))]
const CACHE_BYTES: u64 = 8 * 1024 * 1024;

/// Runs `test` on each engine with a folder of its own.
pub(crate) fn for_each(test: impl Fn(Subject, &Path)) {
    for subject in SUBJECTS {
        println!("engine {}", subject.name);
        let dir = tempfile::tempdir().unwrap();
        test(*subject, dir.path());
    }
}
