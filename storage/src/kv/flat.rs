//! Tables within one ordered key space, for engines whose atomic batches are limited to one.
//!
//! An entry's key is the table's name, a zero byte, and its key in the table.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::MutexGuard,
};

use super::{Durability, Entry, KeyRange, KvError, ReadTx, WriteTx, overlay::Overlay};

/// What an engine reads.
pub(super) trait Flat {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, KvError>;
    /// The range isn't empty.
    fn scan(&self, range: KeyRange<'_>, limit: usize) -> Result<Vec<Entry>, KvError>;
}

/// What it writes: keys to set, and with `None` to delete, all at once.
pub(super) type Batch = Vec<(Vec<u8>, Option<Vec<u8>>)>;

/// The tables in a [`Flat`].
pub(super) struct Tables<F>(pub(super) F);

impl<F: Flat> ReadTx for Tables<F> {
    fn get(&self, table: &str, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        self.0.get(&flat_key(table, key))
    }

    fn scan(&self, table: &str, range: KeyRange<'_>, limit: usize) -> Result<Vec<Entry>, KvError> {
        if range.is_empty() || limit == 0 {
            return Ok(Vec::new());
        }
        let start = flat_key(table, range.start());
        let end = range.end().map_or_else(|| table_end(table), |end| flat_key(table, end));
        let flat = KeyRange::new(&start, &end);
        let flat = if range.is_reversed() { flat.reversed() } else { flat };
        let mut entries = self.0.scan(flat, limit)?;
        for (key, _) in &mut entries {
            key.drain(..=table.len());
        }
        Ok(entries)
    }

    fn tables(&self) -> Result<Vec<String>, KvError> {
        let mut names = Vec::new();
        let mut from = Vec::new();
        while let Some((key, _)) = self.0.scan(KeyRange::all().starting_at(&from), 1)?.into_iter().next() {
            let name = key.split(|byte| *byte == 0).next().unwrap_or_default();
            let name = std::str::from_utf8(name).map_err(|_| KvError::Corrupt("a table's name isn't text".into()))?;
            from = table_end(name);
            names.push(name.to_owned());
        }
        Ok(names)
    }
}

fn flat_key(table: &str, key: &[u8]) -> Vec<u8> {
    [table.as_bytes(), &[0], key].concat()
}

/// The first key after all of the table's.
fn table_end(table: &str) -> Vec<u8> {
    [table.as_bytes(), &[1]].concat()
}

/// The writing transaction of a [`Flat`]; `apply` commits the batch.
pub(super) struct Write<'a, F, A> {
    _writer: MutexGuard<'a, ()>,
    overlay: Overlay<Tables<F>>,
    apply: A,
}

impl<'a, F: Flat, A: FnOnce(Batch, Durability) -> Result<(), KvError>> Write<'a, F, A> {
    /// `writer` keeps other writers out.
    pub(super) fn new(writer: MutexGuard<'a, ()>, base: F, apply: A) -> Self {
        Self { _writer: writer, overlay: Overlay::new(Tables(base)), apply }
    }
}

impl<F: Flat, A> ReadTx for Write<'_, F, A> {
    fn get(&self, table: &str, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        self.overlay.get(table, key)
    }

    fn scan(&self, table: &str, range: KeyRange<'_>, limit: usize) -> Result<Vec<Entry>, KvError> {
        self.overlay.scan(table, range, limit)
    }

    fn tables(&self) -> Result<Vec<String>, KvError> {
        self.overlay.tables()
    }
}

impl<F: Flat, A: FnOnce(Batch, Durability) -> Result<(), KvError>> WriteTx for Write<'_, F, A> {
    fn put(&mut self, table: &str, key: &[u8], value: &[u8]) -> Result<(), KvError> {
        self.overlay.put(table, key, Some(value));
        Ok(())
    }

    fn delete(&mut self, table: &str, key: &[u8]) -> Result<(), KvError> {
        self.overlay.put(table, key, None);
        Ok(())
    }

    fn clear(&mut self, table: &str) -> Result<(), KvError> {
        self.overlay.clear(table);
        Ok(())
    }

    fn commit(self: Box<Self>, durability: Durability) -> Result<(), KvError> {
        let (base, tables) = self.overlay.into_parts();
        let mut batch = Batch::new();
        for (table, changes) in tables {
            if changes.cleared {
                let old = base.scan(&table, KeyRange::all(), usize::MAX)?;
                let gone = old.into_iter().filter(|(key, _)| !changes.entries.contains_key(key));
                batch.extend(gone.map(|(key, _)| (flat_key(&table, &key), None)));
            }
            batch.extend(changes.entries.into_iter().map(|(key, value)| (flat_key(&table, &key), value)));
        }
        (self.apply)(batch, durability)
    }
}

/// Makes the folder `path`, if it isn't there, with what `create` puts into it: whole or not at all.
pub(super) fn ensure_dir(path: &Path, create: impl FnOnce(&Path) -> Result<(), KvError>) -> Result<(), KvError> {
    if path.try_exists().map_err(KvError::from_io)? {
        return Ok(());
    }
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let new = PathBuf::from(new);
    match fs::remove_dir_all(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(KvError::from_io(error)),
        _ => {}
    }
    create(&new)?;
    sync_tree(&new)
        .and_then(|()| fs::rename(&new, path))
        .and_then(|()| path.parent().map_or(Ok(()), |parent| File::open(parent)?.sync_all()))
        .map_err(KvError::from_io)
}

/// Flushes every file and folder below `path`, and it.
pub(super) fn sync_tree(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        match entry.file_type()?.is_dir() {
            true => sync_tree(&entry.path())?,
            false => File::open(entry.path())?.sync_all()?,
        }
    }
    File::open(path)?.sync_all()
}
