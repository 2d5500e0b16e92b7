//! Which call is to fail, and how.

use libc::{EDQUOT, EIO, ENOSPC, c_int};

/// A kind of call that changes something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Site {
    Write,
    Create,
    Allocate,
    Resize,
    Rename,
    Link,
    Remove,
    Folder,
    Sync,
}

/// Their names in the environment variable.
const NAMES: [(&str, Site); 9] = [
    ("write", Site::Write),
    ("create", Site::Create),
    ("allocate", Site::Allocate),
    ("resize", Site::Resize),
    ("rename", Site::Rename),
    ("link", Site::Link),
    ("remove", Site::Remove),
    ("mkdir", Site::Folder),
    ("sync", Site::Sync),
];

impl Site {
    pub(crate) fn name(self) -> &'static str {
        NAMES.iter().find(|(_, site)| *site == self).map_or("", |(name, _)| name)
    }

    /// Whether a full disk can make it fail.
    fn needs_space(self) -> bool {
        !matches!(self, Site::Remove | Site::Resize | Site::Sync)
    }
}

/// What becomes of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is carried out.
    Pass,
    /// It fails with this error code.
    Fail(c_int),
    /// It writes half of what it was given; the next one fails.
    Short,
}

/// `fail:ERRNO:SITE:N[:COUNT|:forever][:short]`: the N-th call of a kind fails, and the COUNT - 1 after it.
#[derive(Debug)]
pub(crate) struct Fault {
    errno: c_int,
    /// None: every kind.
    site: Option<Site>,
    /// Only kinds that need space.
    is_about_space: bool,
    passes_left: u64,
    failures_left: u64,
    is_short: bool,
}

impl Fault {
    /// Understands the text behind `fail:`.
    pub(crate) fn parse(text: &str) -> Option<Fault> {
        let mut parts = text.split(':');
        let errno = match parts.next()? {
            "ENOSPC" => ENOSPC,
            "EDQUOT" => EDQUOT,
            "EIO" => EIO,
            _ => return None,
        };
        let site = parts.next()?;
        let known = NAMES.iter().find(|(name, _)| *name == site).map(|(_, site)| *site);
        if known.is_none() && !matches!(site, "any" | "space") {
            return None;
        }
        let first: u64 = parts.next()?.parse().ok().filter(|first| *first > 0)?;
        let (mut failures_left, mut is_short) = (1, false);
        for part in parts {
            match part {
                "forever" => failures_left = u64::MAX,
                "short" => is_short = true,
                count => failures_left = count.parse().ok()?,
            }
        }
        let is_about_space = site == "space";
        Some(Fault { errno, site: known, is_about_space, passes_left: first - 1, failures_left, is_short })
    }

    /// What becomes of the next call, of this kind.
    pub(crate) fn judge(&mut self, site: Site) -> Verdict {
        let is_meant = match self.site {
            Some(meant) => meant == site,
            None => !self.is_about_space || site.needs_space(),
        };
        if !is_meant || self.failures_left == 0 {
            return Verdict::Pass;
        }
        if self.passes_left > 0 {
            self.passes_left -= 1;
            return Verdict::Pass;
        }
        if self.is_short && site == Site::Write {
            self.is_short = false;
            return Verdict::Short;
        }
        self.failures_left -= 1;
        Verdict::Fail(self.errno)
    }
}
