//! How far a shard's windows have come, and how they go on when shards are cut anew.
//!
//! The value of the shard's one entry: watermark, next row's number, late rows, clamped sums, the key groups whose keys
//! come here (first and end, `u16`), and for each run of groups that had got further than the watermark its first and
//! end (`u16`) and how far.
//!
//! When shards are cut anew, a shard goes on from the least watermark of those whose keys it takes over. For keys of a
//! shard that had got further, windows that were over there stay over, and results that were given out there are not
//! given out again: the *floor* of their groups says how far that was, until the watermark has got there too.

use std::ops::Range;

use ringmill_state::{KEY_GROUPS, shard_of};

use super::entry::{Reader, Refused, VERSION, WHOLE};

const GROUPS: usize = KEY_GROUPS as usize;

/// The entry of an earlier shard.
#[derive(Debug)]
struct Earlier {
    watermark_ns: i64,
    sequence: u64,
    late_rows: u64,
    clamped: u64,
    groups: Range<u16>,
    runs: Vec<(Range<u16>, i64)>,
}

/// What the shard's one entry is made of, but for watermark and counts.
#[derive(Debug)]
pub struct Progress {
    /// Changes are noted.
    pub is_tracked: bool,
    groups: Range<u16>,
    /// By group; `None`: the watermark has passed them all.
    floors: Option<Box<[i64]>>,
    /// The floors with which the shard began, for entries that come back from the store later.
    first_floors: Option<Box<[i64]>>,
    /// Others were taken back as well.
    pub has_entries: bool,
    /// Entries that were taken and not joined yet.
    earlier: Vec<Earlier>,
}

/// Watermark and counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    pub watermark_ns: i64,
    pub sequence: u64,
    pub late_rows: u64,
    pub clamped: u64,
}

impl Progress {
    pub fn new() -> Self {
        Self {
            is_tracked: false,
            groups: 0..KEY_GROUPS,
            floors: None,
            first_floors: None,
            has_entries: false,
            earlier: Vec::new(),
        }
    }

    /// Only keys of that shard's groups come here.
    pub fn set_shard(&mut self, shard: usize, shards: usize) {
        let first =
            |shard: usize| (0..KEY_GROUPS).find(|group| shard_of(*group, shards) >= shard).unwrap_or(KEY_GROUPS);
        self.groups = first(shard)..first(shard + 1);
    }

    /// Whether some groups have got further than the watermark.
    #[inline]
    pub fn has_floors(&self) -> bool {
        self.floors.is_some()
    }

    /// How far a group has got, given the watermark.
    #[inline]
    pub fn reached_ns(&self, group: u16, watermark_ns: i64) -> i64 {
        match &self.floors {
            Some(floors) => floors[usize::from(group) % GROUPS].max(watermark_ns),
            None => watermark_ns,
        }
    }

    /// Whether entries of that group went out in an earlier shard, from a window with that end which had not fired here.
    pub fn went_out(&self, group: u16, end_ns: i64) -> bool {
        self.first_floors.as_ref().is_some_and(|floors| floors[usize::from(group) % GROUPS] >= end_ns)
    }

    /// The watermark has moved.
    pub fn advance(&mut self, watermark_ns: i64) {
        if self.floors.as_ref().is_some_and(|floors| floors.iter().all(|floor| *floor <= watermark_ns)) {
            self.floors = None;
        }
    }

    /// The entry's value.
    pub fn write(&self, counts: &Counts, out: &mut Vec<u8>) {
        out.push(VERSION);
        for word in [counts.watermark_ns as u64, counts.sequence, counts.late_rows, counts.clamped] {
            out.extend_from_slice(&word.to_le_bytes());
        }
        out.extend_from_slice(&self.groups.start.to_le_bytes());
        out.extend_from_slice(&self.groups.end.to_le_bytes());
        let Some(floors) = &self.floors else { return };
        let groups = usize::from(self.groups.start)..usize::from(self.groups.end);
        let mut first = self.groups.start;
        for run in floors[groups].chunk_by(|a, b| a == b) {
            let end = first + run.len() as u16;
            if run[0] > counts.watermark_ns {
                out.extend_from_slice(&first.to_le_bytes());
                out.extend_from_slice(&end.to_le_bytes());
                out.extend_from_slice(&run[0].to_le_bytes());
            }
            first = end;
        }
    }

    /// Takes an entry of this shard or of an earlier one.
    pub fn read(&mut self, section: u8, key: &[u8], from: &mut Reader<'_>) -> Result<(), Refused> {
        if section != WHOLE || !key.is_empty() {
            return Err(Refused::Damaged("it is of no key group"));
        }
        let groups = |from: &mut Reader<'_>| {
            let groups = from.group()?..from.group()?;
            let fits = groups.start <= groups.end && groups.end <= KEY_GROUPS;
            if fits { Ok(groups) } else { Err(Refused::Damaged("its key groups are out of range")) }
        };
        let mut earlier = Earlier {
            watermark_ns: from.word()? as i64,
            sequence: from.count()?,
            late_rows: from.count()?,
            clamped: from.count()?,
            groups: groups(from)?,
            runs: Vec::new(),
        };
        while !from.is_empty() {
            earlier.runs.push((groups(from)?, from.word()? as i64));
        }
        self.earlier.push(earlier);
        Ok(())
    }

    /// Joins the entries that were taken; `None`: there was no state.
    pub fn join(&mut self) -> Result<Option<Counts>, Refused> {
        let joined = self.join_earlier();
        if joined.is_none() && self.has_entries {
            return Err(Refused::Damaged("the one that tells how far its shard has come is missing"));
        }
        Ok(joined)
    }

    fn join_earlier(&mut self) -> Option<Counts> {
        let earlier = std::mem::take(&mut self.earlier);
        let mut reached = vec![None; GROUPS];
        for earlier in &earlier {
            let mut own = vec![earlier.watermark_ns; GROUPS];
            for (groups, floor) in &earlier.runs {
                groups.clone().for_each(|group| own[usize::from(group)] = (*floor).max(earlier.watermark_ns));
            }
            // Should two claim a group, the one that is behind loses nothing.
            for group in earlier.groups.clone().map(usize::from) {
                reached[group] = Some(reached[group].map_or(own[group], |other: i64| other.min(own[group])));
            }
        }
        let owned = usize::from(self.groups.start)..usize::from(self.groups.end);
        let least = reached[owned].iter().flatten().min().copied();
        let watermark_ns = least.or_else(|| earlier.iter().map(|earlier| earlier.watermark_ns).min())?;
        let floors: Box<[i64]> = reached.iter().map(|reached| reached.unwrap_or(i64::MIN)).collect();
        self.floors = Some(floors);
        self.advance_owned(watermark_ns);
        self.first_floors.clone_from(&self.floors);
        // Each count goes to the one shard that takes over its first group.
        let counted = || earlier.iter().filter(|earlier| self.groups.contains(&earlier.groups.start));
        Some(Counts {
            watermark_ns,
            sequence: earlier.iter().map(|earlier| earlier.sequence).max()?,
            late_rows: counted().fold(0, |sum, earlier| sum.saturating_add(earlier.late_rows)),
            clamped: counted().fold(0, |sum, earlier| sum.saturating_add(earlier.clamped)),
        })
    }

    /// Forgets the floors of other shards' groups, then all if none is needed.
    fn advance_owned(&mut self, watermark_ns: i64) {
        let groups = self.groups.clone();
        if let Some(floors) = &mut self.floors {
            let others = floors.iter_mut().enumerate().filter(|(group, _)| !groups.contains(&(*group as u16)));
            others.for_each(|(_, floor)| *floor = i64::MIN);
        }
        self.advance(watermark_ns);
    }
}
