//! What a figure was measured on: CPU, which cores and how near to each other they are, kernel, clock, governor, build.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use ringmill_engine::Plan;
use ringmill_engine::plan::NodeKind;
use serde::Serialize;

/// The build of this command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Build {
    /// Version.
    pub version: &'static str,
    /// Commit; null: it was not built from a Git checkout.
    pub commit: Option<&'static str>,
    /// Whether the checkout differed from the commit.
    pub dirty: bool,
}

impl Build {
    /// This one.
    pub fn this() -> Build {
        Build {
            version: env!("CARGO_PKG_VERSION"),
            commit: option_env!("RINGMILL_COMMIT").filter(|commit| !commit.is_empty()),
            dirty: option_env!("RINGMILL_DIRTY") == Some("true"),
        }
    }

    /// For people.
    pub fn line(&self) -> String {
        let commit = self.commit.map_or("commit unknown", |commit| commit.get(..12).unwrap_or(commit));
        let dirty = if self.dirty { ", with changes that were not committed" } else { "" };
        format!("ringmill {} ({commit}{dirty})", self.version)
    }
}

/// The machine as the kernel describes it; what it does not tell is absent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MachineReport {
    /// Model of the CPU.
    pub cpu: Option<String>,
    /// CPUs that this process may use.
    pub cpus: usize,
    /// Memory.
    pub memory_bytes: Option<u64>,
    /// Kernel and its release.
    pub kernel: Option<String>,
    /// Distribution.
    pub os: Option<String>,
    /// Frequency governor of the first CPU.
    pub governor: Option<String>,
    /// Clock source.
    pub clock_source: Option<String>,
    /// Hypervisor, if the CPU says that there is one.
    pub hypervisor: Option<String>,
    /// CPUs that the pipeline's threads and workers are pinned to: shards first, then workers; empty: no pinning.
    pub pinning: Vec<usize>,
    /// How near the CPUs used are to each other, pair by pair.
    pub topology: Vec<Pair>,
    /// Whether workers sleep under a real-time policy, whether deep idle states are forbidden, and so on.
    pub profile: String,
    /// The workers' interpreter.
    pub python: Option<String>,
}

/// Two CPUs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Pair {
    /// Which.
    pub cpus: [usize; 2],
    /// What they share.
    pub relation: Relation,
}

/// What two CPUs share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Relation {
    /// One core.
    SmtSiblings,
    /// The last-level cache.
    SameCache,
    /// The package alone.
    SamePackage,
    /// Nothing.
    Across,
    /// The kernel does not tell.
    Unknown,
}

impl Relation {
    /// For people.
    pub fn words(self) -> &'static str {
        match self {
            Relation::SmtSiblings => "two threads of one core (SMT siblings)",
            Relation::SameCache => "two cores with the same last-level cache",
            Relation::SamePackage => "two cores of one package, with no cache in common",
            Relation::Across => "two packages",
            Relation::Unknown => "unknown to each other",
        }
    }
}

/// Pairs beyond this many CPUs are left out.
const CPUS_PAIRED_MAX: usize = 8;

impl MachineReport {
    /// This machine, as `plan` uses it.
    pub fn of(plan: &Plan) -> MachineReport {
        let cpuinfo = read("/proc/cpuinfo").unwrap_or_default();
        let allowed = allowed_cpus();
        let used = if plan.cpus.is_empty() { allowed.clone() } else { plan.cpus.clone() };
        let system = Path::new("/sys/devices/system/cpu");
        MachineReport {
            cpu: field(&cpuinfo, "model name"),
            cpus: allowed.len(),
            memory_bytes: memory_bytes(),
            kernel: read("/proc/sys/kernel/osrelease").map(|release| format!("Linux {release}")),
            os: read("/etc/os-release").and_then(|text| {
                let line = text.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="))?;
                Some(line.trim_matches('"').to_owned())
            }),
            governor: read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
            clock_source: read("/sys/devices/system/clocksource/clocksource0/current_clocksource"),
            hypervisor: hypervisor(&cpuinfo),
            pinning: plan.cpus.clone(),
            topology: pairs(&used, system),
            profile: plan.profile.to_string(),
            python: python_version(plan),
        }
    }
}

fn read(path: impl AsRef<Path>) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    Some(text.trim().to_owned()).filter(|text| !text.is_empty())
}

fn field(text: &str, name: &str) -> Option<String> {
    let line = text.lines().find(|line| line.split(':').next().is_some_and(|key| key.trim() == name))?;
    line.split_once(':').map(|(_, value)| value.trim().to_owned())
}

fn memory_bytes() -> Option<u64> {
    let text = read("/proc/meminfo")?;
    let kibibytes = field(&text, "MemTotal")?.strip_suffix("kB")?.trim().parse::<u64>().ok()?;
    Some(kibibytes * 1024)
}

fn hypervisor(cpuinfo: &str) -> Option<String> {
    let flags = field(cpuinfo, "flags")?;
    let is_guest = flags.split_whitespace().any(|flag| flag == "hypervisor");
    let name = || read("/sys/hypervisor/type").or_else(|| read("/sys/class/dmi/id/sys_vendor"));
    is_guest.then(|| name().unwrap_or_else(|| "yes".to_owned()))
}

fn python_version(plan: &Plan) -> Option<String> {
    let python = plan.nodes.iter().find_map(|node| match &node.kind {
        NodeKind::Udf(udf) => Some(&udf.python),
        _ => None,
    })?;
    let output = Command::new(python).arg("--version").output().ok()?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned()).filter(|version| !version.is_empty())
}

fn allowed_cpus() -> Vec<usize> {
    let status = read("/proc/self/status").unwrap_or_default();
    let listed = field(&status, "Cpus_allowed_list").map(|list| cpu_list(&list)).unwrap_or_default();
    listed.into_iter().collect()
}

/// `0-3,8` as the kernel writes it.
fn cpu_list(text: &str) -> BTreeSet<usize> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (first.trim().parse::<usize>().ok()?, last.trim().parse::<usize>().ok()?);
        Some(first..=last)
    };
    text.split(',').filter_map(range).flatten().collect()
}

fn pairs(cpus: &[usize], system: &Path) -> Vec<Pair> {
    let mut pairs = Vec::new();
    let cpus = &cpus[..cpus.len().min(CPUS_PAIRED_MAX)];
    for (index, &one) in cpus.iter().enumerate() {
        for &other in &cpus[index + 1..] {
            pairs.push(Pair { cpus: [one, other], relation: relation(one, other, system) });
        }
    }
    pairs
}

fn relation(one: usize, other: usize, system: &Path) -> Relation {
    let cpu = system.join(format!("cpu{one}"));
    let shares = |file: &Path| read(file).map(|list| cpu_list(&list).contains(&other));
    match shares(&cpu.join("topology/thread_siblings_list")) {
        None => return Relation::Unknown,
        Some(true) => return Relation::SmtSiblings,
        Some(false) => {}
    }
    let caches = (0..8).map(|index| cpu.join(format!("cache/index{index}")));
    let levels = caches.filter_map(|cache| Some((read(cache.join("level"))?.parse::<u32>().ok()?, cache)));
    let last = levels.max_by_key(|(level, _)| *level);
    if last.is_some_and(|(_, cache)| shares(&cache.join("shared_cpu_list")) == Some(true)) {
        return Relation::SameCache;
    }
    match shares(&cpu.join("topology/package_cpus_list")).or_else(|| shares(&cpu.join("topology/core_siblings_list"))) {
        Some(true) => Relation::SamePackage,
        Some(false) => Relation::Across,
        None => Relation::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_lists_are_read_as_the_kernel_writes_them() {
        assert_eq!(cpu_list("0-2,5,7-8").into_iter().collect::<Vec<_>>(), [0, 1, 2, 5, 7, 8]);
        assert!(cpu_list("").is_empty());
    }

    #[test]
    fn topology_is_told_from_what_cpus_share() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let write = |path: &str, text: &str| {
            let path = folder.path().join(path);
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("create");
            std::fs::write(path, text).expect("write");
        };
        write("cpu0/topology/thread_siblings_list", "0-1\n");
        write("cpu0/topology/package_cpus_list", "0-5\n");
        write("cpu0/cache/index0/level", "1\n");
        write("cpu0/cache/index0/shared_cpu_list", "0-1\n");
        write("cpu0/cache/index3/level", "3\n");
        write("cpu0/cache/index3/shared_cpu_list", "0-3\n");
        let expected =
            [(1, Relation::SmtSiblings), (2, Relation::SameCache), (5, Relation::SamePackage), (6, Relation::Across)];
        for (other, expected) in expected {
            assert_eq!(relation(0, other, folder.path()), expected, "cpu {other}");
        }
        assert_eq!(relation(9, 0, folder.path()), Relation::Unknown);
    }

    #[test]
    fn fields_are_found_by_their_whole_name() {
        assert_eq!(field("model\t: 1\nmodel name\t: EPYC 9\n", "model name"), Some("EPYC 9".to_owned()));
    }
}
