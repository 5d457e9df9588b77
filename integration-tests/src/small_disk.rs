//! A disk that is small enough to be full: a file system in memory, mounted below a folder. Only root can mount one; CI runs as root.

use std::{
    io::ErrorKind,
    path::{Path, PathBuf},
};

use crate::{
    outside::{command, run_to_end},
    wait::SHORT,
};

/// There as long as this lives.
#[derive(Debug)]
pub struct SmallDisk(PathBuf);

impl SmallDisk {
    /// `None` if nothing can be mounted here and `ECHOPILOT_TEST_NO_MOUNT` says that this is accepted; else the test fails.
    #[track_caller]
    pub fn mount(folder: &Path, megabytes: u32) -> Option<Self> {
        let mut id = command("id");
        id.arg("-u");
        if run_to_end(id, SHORT).stdout.trim() != "0" {
            assert!(
                std::env::var_os("ECHOPILOT_TEST_NO_MOUNT").is_some(),
                "a full disk needs root to mount a small one: set ECHOPILOT_TEST_NO_MOUNT=1 to do without this test"
            );
            eprintln!("NOT TESTED, because ECHOPILOT_TEST_NO_MOUNT is set: a full disk");
            return None;
        }
        std::fs::create_dir_all(folder).expect("a folder");
        let mut mount = command("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={megabytes}m"), "tmpfs"]).arg(folder);
        run_to_end(mount, SHORT).expect(0);
        Some(Self(folder.to_owned()))
    }

    /// Takes all the room that is left. Dropping the answer gives it back.
    pub fn fill(&self) -> Filler {
        let filler = Filler(self.0.join("filler"));
        let file = std::fs::File::create(&filler.0).expect("a file");
        let chunk = vec![1_u8; 64 << 10];
        let full = loop {
            if let Err(error) = std::io::Write::write_all(&mut &file, &chunk) {
                break error;
            }
        };
        assert_eq!(full.kind(), ErrorKind::StorageFull);
        filler
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let mut umount = command("umount");
        umount.arg("-l").arg(&self.0);
        let _ = umount.status(); // the folder goes with the test's own
    }
}

/// What fills a disk.
#[derive(Debug)]
pub struct Filler(PathBuf);

impl Drop for Filler {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}
