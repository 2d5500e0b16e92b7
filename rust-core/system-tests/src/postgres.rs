//! A PostgreSQL server of a test's own, and `psql` to look into it.
//!
//! The programs are those of Debian's package (`/usr/lib/postgresql/*/bin`) or of the PATH. Where there are none a test
//! fails, unless `RINGMILL_WITHOUT_POSTGRES` says that this is known (`scripts/ci/rust-tests` says so, and lists what was
//! left out).

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::Duration;

use nix::unistd::{Uid, User};
use tempfile::TempDir;

use crate::chaos::kill_now;
use crate::{children_of, free_address, is_alive};

/// Our user in the server.
pub const USER: &str = "mill";
const POLL: Duration = Duration::from_millis(10);

/// A server in a folder of its own, ended with the test.
pub struct Postgres {
    programs: PathBuf,
    folder: TempDir,
    port: u16,
    process: Option<Child>,
    owner: Option<User>,
}

impl Postgres {
    /// A new server that is ready; `None`: there is none on this machine, and whoever started the test knows.
    pub fn start() -> Option<Postgres> {
        let mut server = Postgres::stopped()?;
        server.go_on();
        Some(server)
    }

    /// A new server that does not run yet.
    pub fn stopped() -> Option<Postgres> {
        let Some(programs) = programs() else {
            let known = std::env::var_os("RINGMILL_WITHOUT_POSTGRES");
            assert!(known.is_some(), "PostgreSQL is not installed: apt-get install postgresql (scripts/ci/rust-tests)");
            println!("skipped: PostgreSQL is not installed");
            return None;
        };
        let folder = tempfile::Builder::new().prefix("pg").tempdir().expect("there is room for a folder");
        let owner = Uid::effective().is_root().then(unprivileged);
        if let Some(owner) = &owner {
            chown(folder.path(), Some(owner.uid.as_raw()), Some(owner.gid.as_raw())).expect("root may do so");
        }
        let server = Postgres { programs, folder, port: free_address().port(), process: None, owner };
        let data = server.data();
        let mut initdb = server.command("initdb");
        initdb.arg("-D").arg(&data).args(["-U", USER, "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync"]);
        said(initdb.output());
        // Nobody can log in as `locked` without a password, and only `mill` can without encryption.
        let access =
            format!("local all all trust\nhost all {USER} 127.0.0.1/32 trust\nhost all all all scram-sha-256\n");
        server.write("data/pg_hba.conf", &access);
        let settings = format!(
            "listen_addresses = '127.0.0.1'\nport = {}\nunix_socket_directories = '{}'\nfsync = off\n\
             shared_buffers = 16MB\nmax_connections = 20\nwal_level = minimal\nmax_wal_senders = 0\nautovacuum = off\n",
            server.port,
            server.folder.path().display()
        );
        let config = fs::read_to_string(data.join("postgresql.conf")).expect("initdb made it");
        server.write("data/postgresql.conf", &(config + &settings));
        Some(server)
    }

    /// Adds settings, for the next start.
    pub fn configure(&self, settings: &str) {
        let mut file = File::options().append(true).open(self.data().join("postgresql.conf")).expect("it is there");
        file.write_all(settings.as_bytes()).expect("it can be written");
    }

    /// Puts a file into its folder, which is the server's own and nobody else's.
    pub fn write(&self, name: &str, content: &str) -> PathBuf {
        use std::os::unix::fs::PermissionsExt;
        let path = self.folder.path().join(name);
        fs::write(&path, content).expect("the folder can be written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("it is ours");
        if let Some(owner) = &self.owner {
            chown(&path, Some(owner.uid.as_raw()), Some(owner.gid.as_raw())).expect("root may do so");
        }
        path
    }

    /// Starts it, and waits until it answers.
    pub fn go_on(&mut self) {
        loop {
            let log = File::options().create(true).append(true).open(self.folder.path().join("log")).expect("a log");
            let mut command = self.command("postgres");
            command.arg("-D").arg(self.data()).stdout(Stdio::null()).stderr(log);
            let mut process = command.spawn().expect("it is installed");
            // Processes that survived the last one for a moment still have its memory, and hold up the start.
            while process.try_wait().expect("a child").is_none() {
                if self.psql("postgres", "SELECT 1").status.success() {
                    self.process = Some(process);
                    return;
                }
                sleep(POLL);
            }
            let log = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
            assert!(log.contains("still in use"), "the server does not start: {log}");
        }
    }

    /// Kills it and all its processes with SIGKILL.
    pub fn kill(&mut self) {
        let Some(mut process) = self.process.take() else { return };
        let children = children_of(process.id());
        kill_now(process.id() as i32);
        children.iter().for_each(|child| kill_now(*child));
        process.wait().expect("a child");
        while children.iter().any(|child| is_alive(*child)) {
            sleep(POLL);
        }
    }

    /// Where a client connects by the Unix socket.
    pub fn url(&self) -> String {
        format!("postgres://{USER}@/postgres?host={}&port={}", self.folder.path().display(), self.port)
    }

    /// Its port at 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Runs SQL; what it prints, a line for each row, columns separated by `|`.
    pub fn sql(&self, sql: &str) -> String {
        said(Ok(self.psql("postgres", sql)))
    }

    /// Runs SQL; what it prints, or nothing while there is no such table or server.
    pub fn ask(&self, sql: &str) -> String {
        let output = self.psql("postgres", sql);
        if output.status.success() { text(&output.stdout) } else { String::new() }
    }

    /// `psql` with this input in a process of its own, for example to hold a lock.
    pub fn session(&self) -> Child {
        let mut command = self.psql_command("postgres");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("psql")
    }

    fn psql(&self, database: &str, sql: &str) -> Output {
        self.psql_command(database).args(["-c", sql]).stdin(Stdio::null()).output().expect("psql")
    }

    fn psql_command(&self, database: &str) -> Command {
        let mut command = self.command("psql");
        command.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-U", USER, "-d", database]);
        command.arg("-h").arg(self.folder.path()).args(["-p", &self.port.to_string()]);
        command.env("PGTZ", "UTC").env("PGCLIENTENCODING", "UTF8");
        command
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// One of its programs, as a user that it accepts: not root.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.programs.join(program));
        command.current_dir(self.folder.path()).env("LC_ALL", "C.UTF-8");
        if let Some(owner) = &self.owner {
            command.uid(owner.uid.as_raw()).gid(owner.gid.as_raw());
        }
        command
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.kill();
    }
}

fn programs() -> Option<PathBuf> {
    let has_all = |folder: &Path| ["initdb", "postgres", "psql"].iter().all(|name| folder.join(name).exists());
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut folders: Vec<PathBuf> = versions.map(|version| version.path().join("bin")).collect();
    folders.sort();
    folders.reverse();
    folders.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
    folders.into_iter().find(|folder| has_all(folder))
}

fn unprivileged() -> User {
    let names = ["postgres", "nobody"].into_iter();
    names.filter_map(|name| User::from_name(name).ok().flatten()).next().expect("every system has nobody")
}

fn said(output: std::io::Result<Output>) -> String {
    let output = output.expect("it is installed");
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim_end().to_owned()
}
