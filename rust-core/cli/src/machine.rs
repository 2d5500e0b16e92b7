//! What the machine and the environment offer: cores, memory, a Python interpreter. Read here and nowhere else.

use std::path::{Path, PathBuf};

/// What defaults are made from.
#[derive(Clone, Debug)]
pub struct Machine {
    /// CPUs that this process may use.
    pub cores: usize,
    /// Memory that this process may use (the machine's or the control group's, whichever is less).
    pub memory_bytes: u64,
    /// `$RINGMILL_PYTHON`, if set.
    pub python_variable: Option<PathBuf>,
    /// Folder of the ringmill command.
    pub binary_directory: Option<PathBuf>,
    /// Folders of `$PATH`.
    pub search_path: Vec<PathBuf>,
    /// Where runs show themselves to `ringmill inspect`: `$XDG_RUNTIME_DIR`, or `/tmp` where there is none.
    pub run_base: PathBuf,
    /// Variables that keep the numeric libraries of a worker to one thread, unless they are set: the workers are the
    /// parallelism, and a pool of threads in each would fight over their cores.
    pub worker_environment: Vec<(String, String)>,
    /// `$RINGMILL_FAILPOINT`, if set: where a test wants this process to be killed.
    pub failpoint: Option<String>,
}

/// Read by OpenMP, OpenBLAS and MKL when they are loaded.
const THREAD_VARIABLES: [&str; 3] = ["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"];

/// Assumed when the kernel does not tell.
const MEMORY_BYTES_ASSUMED: u64 = 4 << 30;

impl Machine {
    /// This machine, now.
    pub fn detect() -> Machine {
        let total = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| mem_total(&text));
        let limit = std::fs::read_to_string("/sys/fs/cgroup/memory.max").ok().and_then(|text| text.trim().parse().ok());
        let memory_bytes = [total, limit].into_iter().flatten().min().unwrap_or(MEMORY_BYTES_ASSUMED);
        Machine {
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_bytes,
            python_variable: std::env::var_os("RINGMILL_PYTHON").filter(|value| !value.is_empty()).map(PathBuf::from),
            binary_directory: std::env::current_exe().ok().and_then(|path| path.parent().map(Path::to_owned)),
            search_path: std::env::var_os("PATH").map_or(Vec::new(), |path| std::env::split_paths(&path).collect()),
            run_base: std::env::var_os("XDG_RUNTIME_DIR")
                .map(PathBuf::from)
                .filter(|folder| folder.is_dir())
                .unwrap_or_else(|| PathBuf::from("/tmp")),
            worker_environment: THREAD_VARIABLES
                .into_iter()
                .filter(|name| std::env::var_os(name).is_none())
                .map(|name| (name.to_owned(), "1".to_owned()))
                .collect(),
            failpoint: std::env::var_os("RINGMILL_FAILPOINT").map(|value| value.to_string_lossy().into_owned()),
        }
    }

    /// The interpreter that workers run on: `configured` (relative to `directory`), else `$RINGMILL_PYTHON`, else the one
    /// beside the ringmill command (a virtual environment), else `python3` on the search path. The error says what was looked for.
    pub fn find_python(&self, configured: Option<&str>, directory: &Path) -> Result<PathBuf, String> {
        let named = configured.map(PathBuf::from);
        if let Some(python) = named.as_ref().or(self.python_variable.as_ref()) {
            let origin = if named.is_some() { "" } else { " (from $RINGMILL_PYTHON)" };
            return self
                .find_program(python, directory)
                .ok_or_else(|| format!("there is no Python interpreter at `{}`{origin}", python.display()));
        }
        let beside = self.binary_directory.iter().flat_map(|bin| [bin.join("python3"), bin.join("python")]);
        beside
            .into_iter()
            .find(|path| is_executable(path))
            .or_else(|| self.find_program(Path::new("python3"), directory))
            .ok_or_else(|| "no Python interpreter was found beside the ringmill command or on the PATH".to_owned())
    }

    fn find_program(&self, program: &Path, directory: &Path) -> Option<PathBuf> {
        if program.components().count() > 1 {
            // Not canonicalised: python in a virtual environment is a link whose place matters.
            return Some(directory.join(program)).filter(|path| is_executable(path));
        }
        self.search_path.iter().map(|folder| folder.join(program)).find(|path| is_executable(path))
    }
}

fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path).is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
}

fn mem_total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meminfo_is_read() {
        assert_eq!(mem_total("MemTotal:       16384 kB\nMemFree: 1 kB\n"), Some(16_777_216));
        assert_eq!(mem_total("nothing"), None);
    }

    #[test]
    fn the_configured_interpreter_wins_and_a_missing_one_is_named() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let python = folder.path().join("python3");
        std::fs::copy("/bin/true", &python).expect("copy");
        let machine = Machine {
            cores: 1,
            memory_bytes: 1,
            python_variable: None,
            binary_directory: None,
            search_path: vec![folder.path().to_owned()],
            run_base: folder.path().to_owned(),
            worker_environment: Vec::new(),
            failpoint: None,
        };
        let here = Path::new("/nowhere");
        assert_eq!(machine.find_python(None, here), Ok(python.clone()));
        assert_eq!(machine.find_python(Some("./python3"), folder.path()).map(|path| path.exists()), Ok(true));
        let error = machine.find_python(Some("python9"), here).expect_err("absent");
        assert_eq!(error, "there is no Python interpreter at `python9`");
    }
}
