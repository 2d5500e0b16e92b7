//! A hash table from keys to entries that lie in the order in which their keys came.
//!
//! The index holds 32 bits of the hash and the entry's number in 8 bytes, so growing it touches no entry. An entry is
//! `[hash, key, payload]` in words: the key is a word, or its length and so many bytes in place, longer ones in the
//! arena. Entries of up to 64 bytes never straddle a cache line. Rows are looked up a block at a time: first all index
//! lines are prefetched, then all entries, then the keys are compared (FACTS: 33–44 ns a row against 44 and more).

use std::fmt;

use bytemuck::{Pod, Zeroable};

use super::arena::{Arena, NONE};
use super::budget::Budget;
use super::error::StateFull;
use super::key::{ByteKeys, KeyData, KeyScratch, Keys};

/// Most rows of one block: entries of 64 bytes then stay in the nearest cache.
pub const BLOCK: usize = 256;

#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u64; 8]);

// SAFETY: zeros are eight zero words.
#[allow(unsafe_code)]
unsafe impl Zeroable for Line {}
// SAFETY: eight words without padding (64 bytes, aligned to 64), of which any bits are valid.
#[allow(unsafe_code)]
unsafe impl Pod for Line {}

/// Where things stand in an entry, in words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryLayout {
    /// From entry to entry.
    pub stride: usize,
    /// Words for a key's bytes; 0: the key is a word.
    inline: usize,
    /// Where the payload starts.
    pub payload: usize,
}

impl EntryLayout {
    /// For a payload of that many words.
    pub fn new(words_as_keys: bool, payload_words: usize) -> Self {
        if words_as_keys {
            let total = 2 + payload_words;
            let stride = if total <= 8 { total.next_power_of_two() } else { total.next_multiple_of(8) };
            return Self { stride, inline: 0, payload: 2 };
        }
        // At least 16 bytes of key in place, and whatever is left of the last cache line.
        let stride = (4 + payload_words).next_multiple_of(8);
        let inline = stride - 2 - payload_words;
        Self { stride, inline, payload: 2 + inline }
    }
}

/// Keys and their entries.
pub struct KeyTable {
    layout: EntryLayout,
    index: Vec<u64>,
    entries: Vec<Line>,
    /// Entries that were ever in use since the table was empty.
    entry_count: u32,
    live_count: u32,
    /// First of the removed entries, linked by their first word.
    free: u32,
    /// Long keys, and what the payload refers to.
    pub arena: Arena,
}

impl fmt::Debug for KeyTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyTable({} keys, {} bytes)", self.live_count, self.bytes())
    }
}

impl KeyTable {
    /// An empty table that has allocated nothing.
    pub fn new(layout: EntryLayout) -> Self {
        Self {
            layout,
            index: Vec::new(),
            entries: Vec::new(),
            entry_count: 0,
            live_count: 0,
            free: NONE,
            arena: Arena::new(),
        }
    }

    /// How entries are laid out.
    pub fn layout(&self) -> EntryLayout {
        self.layout
    }

    /// Entries `0..entry_count` are in use, but for removed ones.
    pub fn entry_count(&self) -> u32 {
        self.entry_count
    }

    /// Bytes of memory taken.
    pub fn bytes(&self) -> u64 {
        self.index.capacity() as u64 * 8 + self.entries.capacity() as u64 * 64 + self.arena.bytes()
    }

    /// Bytes in use.
    pub fn used_bytes(&self) -> u64 {
        u64::from(self.entry_count) * (self.layout.stride as u64 * 8 + 16) + self.arena.used_bytes()
    }

    /// Forgets all keys and keeps the memory.
    pub fn clear(&mut self) {
        self.index.fill(0);
        self.entries.clear();
        self.entry_count = 0;
        self.live_count = 0;
        self.free = NONE;
        self.arena.clear();
    }

    /// All entries' words.
    #[inline]
    pub fn words(&self) -> &[u64] {
        bytemuck::cast_slice(&self.entries)
    }

    /// All entries' words, and the arena that they refer to.
    #[inline]
    pub fn parts_mut(&mut self) -> (&mut [u64], &mut Arena) {
        (bytemuck::cast_slice_mut(&mut self.entries), &mut self.arena)
    }

    /// Position of an entry's payload among the words.
    #[inline]
    pub fn payload(&self, entry: u32) -> usize {
        entry as usize * self.layout.stride + self.layout.payload
    }

    /// Finds the entries of the keys at `rows`, making those that are missing with the payload `initial`. `found` gets
    /// one entry a row.
    pub fn resolve(
        &mut self,
        keys: &Keys<'_>,
        rows: &[u32],
        initial: &[u64],
        budget: &mut Budget,
        found: &mut Vec<u32>,
    ) -> Result<(), StateFull> {
        found.clear();
        self.arena.limit_growth(budget);
        let before = self.arena.bytes();
        for rows in rows.chunks(BLOCK) {
            match keys.data {
                KeyData::Words(words) => self.resolve_block(&words, keys.hashes, rows, initial, budget, found)?,
                KeyData::Bytes(bytes) => self.resolve_block(&bytes, keys.hashes, rows, initial, budget, found)?,
            }
        }
        budget.settle(before, self.arena.bytes());
        Ok(())
    }

    fn resolve_block<K: RowKeys>(
        &mut self,
        keys: &K,
        hashes: &[u64],
        rows: &[u32],
        initial: &[u64],
        budget: &mut Budget,
        found: &mut Vec<u32>,
    ) -> Result<(), StateFull> {
        if self.index.is_empty() {
            self.grow_index(budget)?;
        }
        let mask = self.index.len() - 1;
        for &row in rows {
            prefetch(&self.index, (hashes[row as usize] >> 32) as usize & mask);
        }
        let mut positions = [0u32; BLOCK];
        for (position, &row) in positions.iter_mut().zip(rows) {
            let (at, slot) = self.probe(hashes[row as usize] >> 32);
            *position = at as u32;
            let entry = (slot as u32).wrapping_sub(1) as usize;
            let start = entry.wrapping_mul(self.layout.stride);
            prefetch(&self.entries, start / 8);
            if self.layout.stride > 8 {
                prefetch(&self.entries, start.wrapping_add(self.layout.payload) / 8);
            }
        }
        for (&position, &row) in positions.iter().zip(rows) {
            let hash = hashes[row as usize];
            // Other rows of the block may have made the index grow.
            let start = if mask + 1 == self.index.len() { position as usize } else { (hash >> 32) as usize };
            let entry = match self.find_from(start, keys, row as usize, hash) {
                Ok(entry) => entry,
                Err(at) => self.insert(at, keys, row as usize, hash, initial, budget)?,
            };
            found.push(entry);
        }
        Ok(())
    }

    /// The entry of one key.
    pub fn find(&self, keys: &Keys<'_>, row: usize) -> Option<u32> {
        if self.index.is_empty() {
            return None;
        }
        let hash = keys.hashes[row];
        let start = (hash >> 32) as usize;
        match keys.data {
            KeyData::Words(words) => self.find_from(start, &words, row, hash).ok(),
            KeyData::Bytes(bytes) => self.find_from(start, &bytes, row, hash).ok(),
        }
    }

    /// The first slot from the hash's own on that has its tag or is empty.
    #[inline]
    fn probe(&self, tag: u64) -> (usize, u64) {
        let mask = self.index.len() - 1;
        let mut at = tag as usize & mask;
        loop {
            let slot = self.index[at];
            if slot == 0 || slot >> 32 == tag {
                return (at, slot);
            }
            at = (at + 1) & mask;
        }
    }

    /// The key's entry, or the empty slot where it belongs.
    #[inline]
    fn find_from<K: RowKeys>(&self, start: usize, keys: &K, row: usize, hash: u64) -> Result<u32, usize> {
        let mask = self.index.len() - 1;
        let mut at = start & mask;
        loop {
            let slot = self.index[at];
            if slot == 0 {
                return Err(at);
            }
            if slot >> 32 == hash >> 32 {
                let entry = slot as u32 - 1;
                let start = entry as usize * self.layout.stride;
                if keys.is(row, &self.words()[start..start + self.layout.payload], &self.arena) {
                    return Ok(entry);
                }
            }
            at = (at + 1) & mask;
        }
    }

    #[cold]
    #[inline(never)]
    fn grow_index(&mut self, budget: &mut Budget) -> Result<(), StateFull> {
        let slots = (self.index.len() * 2).max(16);
        budget.take(slots as u64 * 8)?;
        let old = std::mem::replace(&mut self.index, vec![0; slots]);
        let mask = slots - 1;
        for slot in old.iter().filter(|slot| **slot != 0) {
            let mut at = (slot >> 32) as usize & mask;
            while self.index[at] != 0 {
                at = (at + 1) & mask;
            }
            self.index[at] = *slot;
        }
        budget.settle(old.capacity() as u64 * 8, 0);
        Ok(())
    }

    #[cold]
    #[inline(never)]
    fn grow_entries(&mut self, budget: &mut Budget) -> Result<(), StateFull> {
        let lines = self.entries.capacity();
        // Doubling, as long as that is to be had.
        let growths = [lines.max(4), lines / 8, self.layout.stride.div_ceil(8)];
        let mut refused = Ok(());
        for growth in growths.into_iter().filter(|growth| *growth > 0) {
            let is_needed = growth == self.layout.stride.div_ceil(8);
            let bytes = growth as u64 * 64;
            refused = if is_needed { budget.take(bytes) } else { budget.take_ahead(bytes) };
            if refused.is_ok() {
                self.entries.reserve_exact(lines + growth - self.entries.len());
                budget.settle((lines + growth) as u64 * 64, self.entries.capacity() as u64 * 64);
                break;
            }
        }
        refused
    }

    #[inline(never)]
    fn insert<K: RowKeys>(
        &mut self,
        at: usize,
        keys: &K,
        row: usize,
        hash: u64,
        initial: &[u64],
        budget: &mut Budget,
    ) -> Result<u32, StateFull> {
        let mut at = at;
        if (self.live_count as usize + 1) * 4 > self.index.len() * 3 {
            self.grow_index(budget)?;
            let mask = self.index.len() - 1;
            at = (hash >> 32) as usize & mask;
            while self.index[at] != 0 {
                at = (at + 1) & mask;
            }
        }
        let entry = self.new_entry(budget)?;
        let EntryLayout { stride, inline, payload } = self.layout;
        let (words, arena) = self.parts_mut();
        let words = &mut words[entry as usize * stride..(entry as usize + 1) * stride];
        words[0] = hash;
        words[payload..payload + initial.len()].copy_from_slice(initial);
        let growth = arena.growth_of_key(keys.length(row), inline);
        if keys.put(row, &mut words[1..payload], arena).is_none() {
            return Err(budget.full(growth));
        }
        self.index[at] = (hash >> 32) << 32 | (u64::from(entry) + 1);
        self.live_count += 1;
        Ok(entry)
    }

    fn new_entry(&mut self, budget: &mut Budget) -> Result<u32, StateFull> {
        let stride = self.layout.stride;
        if self.free != NONE {
            let entry = self.free;
            self.free = self.words()[entry as usize * stride] as u32;
            return Ok(entry);
        }
        let entry = self.entry_count;
        let lines = ((entry as usize + 1) * stride).div_ceil(8);
        if lines > self.entries.len() {
            if lines > self.entries.capacity() {
                self.grow_entries(budget)?;
            }
            self.entries.resize(lines, Line([0; 8]));
        }
        self.entry_count += 1;
        Ok(entry)
    }

    /// Removes an entry; its number may be given to another key.
    pub fn remove(&mut self, entry: u32) {
        let start = entry as usize * self.layout.stride;
        let (hash, length) = (self.words()[start], self.words()[start + 1] as usize);
        let mask = self.index.len() - 1;
        let slot = (hash >> 32) << 32 | (u64::from(entry) + 1);
        let mut hole = (hash >> 32) as usize & mask;
        while self.index[hole] != slot {
            hole = (hole + 1) & mask;
        }
        let mut next = (hole + 1) & mask;
        // Slots after the hole move up unless that would put them before their own place.
        while self.index[next] != 0 {
            let home = (self.index[next] >> 32) as usize & mask;
            if next.wrapping_sub(home) & mask >= next.wrapping_sub(hole) & mask {
                self.index[hole] = self.index[next];
                hole = next;
            }
            next = (next + 1) & mask;
        }
        self.index[hole] = 0;
        if self.layout.inline > 0 && length > self.layout.inline * 8 {
            let block = self.words()[start + 2] as u32;
            self.arena.free(block, Arena::class_of(length));
        }
        let free = u64::from(self.free);
        self.parts_mut().0[start] = free;
        self.free = entry;
        self.live_count -= 1;
    }

    /// The hash of an entry's key.
    #[inline]
    pub fn hash(&self, entry: u32) -> u64 {
        self.words()[entry as usize * self.layout.stride]
    }

    /// An entry's key; one that is a word has `word_bytes` bytes.
    #[inline]
    pub fn key(&self, entry: u32, word_bytes: usize) -> &[u8] {
        let start = entry as usize * self.layout.stride + 1;
        let words = self.words();
        if self.layout.inline == 0 {
            return &bytemuck::cast_slice(&words[start..=start])[..word_bytes];
        }
        stored_bytes(&words[start..start + 1 + self.layout.inline], &self.arena)
    }

    /// Brings an entry near.
    #[inline]
    pub fn prefetch(&self, entry: u32) {
        let start = entry as usize * self.layout.stride;
        prefetch(&self.entries, start / 8);
        if self.layout.stride > 8 {
            prefetch(&self.entries, (start + self.layout.payload) / 8);
        }
    }

    /// Gives entry `order[i]` the number `i`. No entry was ever removed.
    pub fn reorder(&mut self, order: &[u32]) {
        let stride = self.layout.stride;
        let mut numbers = vec![0; order.len()];
        order.iter().enumerate().for_each(|(number, entry)| numbers[*entry as usize] = number as u32);
        for slot in self.index.iter_mut().filter(|slot| **slot != 0) {
            *slot = *slot >> 32 << 32 | u64::from(numbers[*slot as u32 as usize - 1] + 1);
        }
        let (words, _) = self.parts_mut();
        for at in 0..numbers.len() {
            while numbers[at] as usize != at {
                let to = numbers[at] as usize;
                let (low, high) = words.split_at_mut(at.max(to) * stride);
                low[at.min(to) * stride..][..stride].swap_with_slice(&mut high[..stride]);
                numbers.swap(at, to);
            }
        }
    }

    /// Appends the keys of some entries to `scratch`, which it empties first.
    pub fn gather(&self, entries: impl Iterator<Item = u32>, scratch: &mut KeyScratch) {
        let EntryLayout { stride, inline, .. } = self.layout;
        let words = self.words();
        if inline == 0 {
            scratch.words.clear();
            scratch.words.extend(entries.map(|entry| words[entry as usize * stride + 1]));
            return;
        }
        scratch.data.clear();
        scratch.offsets.clear();
        scratch.offsets.push(0);
        for entry in entries {
            let start = entry as usize * stride + 1;
            scratch.data.extend_from_slice(stored_bytes(&words[start..start + 1 + inline], &self.arena));
            scratch.offsets.push(scratch.data.len() as i32);
        }
    }
}

/// The bytes of a stored key: `[length, bytes in place or the arena's block]`.
#[inline]
fn stored_bytes<'a>(key: &'a [u64], arena: &'a Arena) -> &'a [u8] {
    let length = key[0] as usize;
    let inline: &[u8] = bytemuck::cast_slice(&key[1..]);
    if length <= inline.len() { &inline[..length] } else { arena.data(key[1] as u32, length) }
}

/// Keys of rows that can be compared with stored ones.
trait RowKeys {
    /// Whether the row's key is the one of an entry's leading words.
    fn is(&self, row: usize, entry: &[u64], arena: &Arena) -> bool;
    /// Stores the key; `None`: the arena is full.
    fn put(&self, row: usize, key: &mut [u64], arena: &mut Arena) -> Option<()>;
    /// Bytes.
    fn length(&self, row: usize) -> usize;
}

impl RowKeys for &[u64] {
    #[inline]
    fn is(&self, row: usize, entry: &[u64], _: &Arena) -> bool {
        entry[1] == self[row]
    }

    #[inline]
    fn put(&self, row: usize, key: &mut [u64], _: &mut Arena) -> Option<()> {
        key[0] = self[row];
        Some(())
    }

    fn length(&self, _: usize) -> usize {
        8
    }
}

impl RowKeys for ByteKeys<'_> {
    #[inline]
    fn is(&self, row: usize, entry: &[u64], arena: &Arena) -> bool {
        equal(stored_bytes(&entry[1..], arena), self.get(row))
    }

    fn put(&self, row: usize, key: &mut [u64], arena: &mut Arena) -> Option<()> {
        let bytes = self.get(row);
        key[0] = bytes.len() as u64;
        let inline: &mut [u8] = bytemuck::cast_slice_mut(&mut key[1..]);
        if bytes.len() <= inline.len() {
            inline[..bytes.len()].copy_from_slice(bytes);
        } else {
            let block = arena.allocate(Arena::class_of(bytes.len()))?;
            arena.data_mut(block, bytes.len()).copy_from_slice(bytes);
            key[1] = u64::from(block);
        }
        Some(())
    }

    fn length(&self, row: usize) -> usize {
        self.get(row).len()
    }
}

/// Equality of mostly short slices, without the call to `memcmp`, which costs more than the comparison.
#[inline]
fn equal(one: &[u8], other: &[u8]) -> bool {
    if one.len() != other.len() {
        return false;
    }
    if let (8..=16, Some(a), Some(b)) = (one.len(), one.first_chunk::<8>(), other.first_chunk::<8>()) {
        return a == b && one.last_chunk::<8>() == other.last_chunk::<8>();
    }
    one == other
}

/// Brings an element near; an index beyond the end is no harm.
#[inline(always)]
#[allow(unsafe_code)]
pub fn prefetch<T>(from: &[T], index: usize) {
    let address = from.as_ptr().wrapping_add(index);
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch reads nothing that could be observed, whatever the address.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(address.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}
