//! A store whose power is cut in the middle of its work opens again, and has everything that it had
//! acknowledged.
//!
//! The store lies on an ext4 file system of its own, in a file. `FS_IOC_SHUTDOWN` ends that file system
//! as a power cut would: what it was not asked to sync it loses, data and names alike. Then the file is
//! mounted again, as after a restart of the machine.
//!
//! Mounting needs root, `mkfs.ext4` and loop devices; without them the test says so and passes.

#[macro_use]
#[path = "../../tests/skipped/mod.rs"]
mod skipped;
#[path = "../../tests/preload/mod.rs"]
mod preload;

mod halfway;
mod writer;

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use dynakv_storage::{Compaction, DiskOptions, DiskStore, Durability};

use self::writer::{Acknowledged, Plan};

/// Tells the test binary that it is the process that writes, and where.
const DIRECTORY: &str = "DYNAKV_TEST_CUT_DIRECTORY";
/// From which number on it writes, and in which cut.
const FIRST: &str = "DYNAKV_TEST_CUT_FIRST";
const CUT: &str = "DYNAKV_TEST_CUT_NUMBER";
/// How many cuts: `make powercut` asks for more than `make test`.
const CUTS: &str = "DYNAKV_POWERCUTS";

const TEST: &str = "what_was_acknowledged_survives_a_power_cut";

/// More than the store needs; the file has holes where nothing was written.
const DISK_BYTES: u64 = 4 * 1024 * 1024 * 1024;

/// One plan per size of values, each with a store of its own.
const PLANS: [Plan; 5] = [
    Plan {
        keys: 300,
        group: 16,
        length: |_| 100,
    },
    Plan {
        keys: 300,
        group: 16,
        length: |_| 4 * 1024,
    },
    Plan {
        keys: 100,
        group: 8,
        length: |_| 20 * 1024,
    },
    Plan {
        keys: 30,
        group: 4,
        length: |_| 256 * 1024,
    },
    Plan {
        keys: 10,
        group: 2,
        length: |_| 1024 * 1024,
    },
];

/// What is done in one cut: all of it follows from its number.
struct Cut {
    number: u64,
    plan: usize,
}

impl Cut {
    fn new(number: u64) -> Self {
        let plan = number as usize % PLANS.len();
        Self { number, plan }
    }

    fn spread(&self, salt: u64) -> u64 {
        (self.number + 1)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .wrapping_add(salt)
            .wrapping_mul(0xd6e8_feb8_6659_fd93)
            >> 32
    }

    /// Bounds so small that log and window each fill first in some cuts.
    fn options(&self) -> DiskOptions {
        let largest = (PLANS[self.plan].length)(0);
        DiskOptions {
            memory_bytes: 700_000 + largest * [28, 280, 84][self.spread(1) as usize % 3],
            log_bytes_max: 200_000 + largest * [40, 400][self.spread(2) as usize % 2],
            durability: Durability::Sync,
            reserve_bytes: None,
            compaction: match self.spread(4).is_multiple_of(2) {
                true => Compaction::Always,
                false => Compaction::WhenWorth,
            },
        }
    }

    /// Whether checkpoints are asked for all the time.
    fn with_checkpoints(&self) -> bool {
        self.spread(3).is_multiple_of(2)
    }

    /// Whether to cut while the store is being opened.
    fn while_opening(&self) -> bool {
        self.spread(4).is_multiple_of(8)
    }

    fn wait(&self) -> Duration {
        let most_ms = if self.while_opening() { 60 } else { 600 };
        Duration::from_micros(self.spread(5) % (most_ms * 1000))
    }
}

/// A file system in a file.
struct Disk {
    file: PathBuf,
    mounted_at: PathBuf,
    is_mounted: bool,
}

impl Disk {
    /// Makes one; why it cannot be made here, when it cannot.
    fn make(root: &Path) -> Result<Self, String> {
        let disk = Self {
            file: root.join("disk.img"),
            mounted_at: root.join("disk"),
            is_mounted: false,
        };
        File::create(&disk.file)
            .and_then(|file| file.set_len(DISK_BYTES))
            .map_err(|error| error.to_string())?;
        std::fs::create_dir(&disk.mounted_at).map_err(|error| error.to_string())?;
        run(Command::new("mkfs.ext4")
            .arg("-q")
            .arg("-F")
            .arg(&disk.file))?;
        Ok(disk)
    }

    fn mount(&mut self) -> Result<(), String> {
        let mut command = Command::new("mount");
        run(command
            .args(["-o", "loop"])
            .arg(&self.file)
            .arg(&self.mounted_at))?;
        self.is_mounted = true;
        Ok(())
    }

    fn unmount(&mut self) -> Result<(), String> {
        run(Command::new("umount").arg(&self.mounted_at))?;
        self.is_mounted = false;
        Ok(())
    }

    /// From here on nothing reaches the disk any more, and every write and sync fails.
    fn cut_power(&self) {
        use rustix::ioctl::{Setter, ioctl, opcode};
        /// `FS_IOC_SHUTDOWN` of the kernel's ext4.h.
        const SHUTDOWN: rustix::ioctl::Opcode = opcode::read::<u32>(b'X', 125);
        /// `EXT4_GOING_FLAGS_NOLOGFLUSH`: the journal is not written out either.
        const NOTHING_MORE: u32 = 2;
        let directory = File::open(&self.mounted_at).unwrap();
        #[expect(unsafe_code, reason = "the kernel's shutdown has no safe wrapper")]
        // SAFETY: this request reads one u32 behind the pointer, which is what the setter hands over.
        unsafe {
            ioctl(&directory, Setter::<SHUTDOWN, u32>::new(NOTHING_MORE)).unwrap();
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.is_mounted {
            // A test that failed must not leave it behind.
            let _ = run(Command::new("umount").arg("-l").arg(&self.mounted_at));
        }
    }
}

fn run(command: &mut Command) -> Result<(), String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command
        .output()
        .map_err(|error| format!("{name}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{name}: {}", said.trim()))
}

/// What the writer had said when the power went.
struct Said {
    /// The last write that it acknowledged, if any.
    acknowledged: Option<u64>,
    in_checkpoint: bool,
}

/// Lets a writer run from `first` on until the power is cut.
fn run_and_cut(disk: &Disk, cut: &Cut, first: u64) -> Said {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", TEST, "--nocapture", "--test-threads=1"])
        .env(DIRECTORY, store_in(disk, cut))
        .env(FIRST, first.to_string())
        .env(CUT, cut.number.to_string())
        .stdout(Stdio::piped())
        // It complains of the disk that fails.
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut said = Said {
        acknowledged: None,
        in_checkpoint: false,
    };
    if !cut.while_opening() {
        while said.acknowledged.is_none() {
            let line = lines.next().expect("the writer acknowledged nothing");
            said.hear(&line.unwrap());
        }
    }
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(cut.wait());
            let lived = child.try_wait().unwrap().is_none();
            disk.cut_power();
            end(&mut child);
            assert!(lived, "cut {}: the writer died by itself", cut.number);
        });
        for line in lines {
            said.hear(&line.unwrap());
        }
    });
    said
}

fn end(child: &mut Child) {
    // It may have ended already, because its disk failed.
    let _ = child.kill();
    child.wait().unwrap();
}

impl Said {
    fn hear(&mut self, line: &str) {
        match line {
            "checkpoint begins" => self.in_checkpoint = true,
            "checkpoint ended" => self.in_checkpoint = false,
            line => {
                if let Some(counter) = line.strip_prefix("synced ") {
                    self.acknowledged = Some(counter.parse().unwrap());
                }
            }
        }
    }
}

fn store_in(disk: &Disk, cut: &Cut) -> PathBuf {
    disk.mounted_at.join(format!("store-{}", cut.plan))
}

#[test]
fn what_was_acknowledged_survives_a_power_cut() {
    let argument = |name| std::env::var(name).ok();
    let number = |text: String| text.parse::<u64>().unwrap();
    if let (Some(directory), Some(first), Some(cut)) =
        (argument(DIRECTORY), argument(FIRST), argument(CUT))
    {
        let cut = Cut::new(number(cut));
        PLANS[cut.plan].write_until_ended(
            Path::new(&directory),
            cut.options(),
            number(first),
            cut.with_checkpoints(),
        );
    }
    let cuts = argument(CUTS).map_or(10, number);
    let root = tempfile::tempdir().unwrap();
    let made = Disk::make(root.path()).and_then(|mut disk| disk.mount().map(|()| disk));
    let mut disk = match made {
        Ok(disk) => disk,
        Err(reason) => {
            skipped!(
                "no power is cut, because no file system could be made and mounted \
                 (needs root, mkfs.ext4 and loop devices): {reason}"
            );
            return;
        }
    };
    let mut acknowledged: Vec<Acknowledged> = vec![Acknowledged::new(); PLANS.len()];
    let mut next = [1; PLANS.len()];
    let (mut in_checkpoint, mut writes) = (0, 0);
    for cut in (0..cuts).map(Cut::new) {
        let plan = PLANS[cut.plan];
        let first = next[cut.plan];
        let said = run_and_cut(&disk, &cut, first);
        let last = said.acknowledged.unwrap_or(first - 1);
        for counter in first..=last {
            let (key, _) = plan.write(counter);
            acknowledged[cut.plan].insert(key, counter);
        }
        println!(
            "cut {}: values of {} B, {} writes acknowledged{}{}",
            cut.number,
            (plan.length)(0),
            last + 1 - first,
            if said.in_checkpoint {
                ", in a checkpoint"
            } else {
                ""
            },
            if cut.while_opening() {
                ", while opening"
            } else {
                ""
            },
        );
        in_checkpoint += u64::from(said.in_checkpoint);
        writes += last + 1 - first;
        disk.unmount().unwrap();
        disk.mount().unwrap();
        let directory = store_in(&disk, &cut);
        let store = DiskStore::open(&directory, cut.options())
            .unwrap_or_else(|error| panic!("cut {}: does not open: {error}", cut.number));
        let highest = plan.check(&store, &acknowledged[cut.plan]).max(last);
        // Above everything that the writer can have begun: one group behind the last acknowledged.
        next[cut.plan] = highest + plan.group + 1;
    }
    println!(
        "{cuts} cuts, {in_checkpoint} of them in a checkpoint: {writes} acknowledged writes, none lost"
    );
    assert!(writes > 0, "nothing was written");
    if cuts >= 10 {
        assert!(in_checkpoint > 0, "no cut fell into a checkpoint");
    }
    disk.unmount().unwrap();
}

/// Tells the test binary that it is the process that opens, and what.
const OPENS: &str = "DYNAKV_TEST_CUT_OPENS";

/// Waits until sled has written half of what it notes when it opens, and stands still; and lets the disk have
/// that half.
fn wait_until_halfway(child: &Child, disk: &Disk) {
    let status = format!("/proc/{}/stat", child.id());
    let began = std::time::Instant::now();
    // "T" behind the name of the program.
    while !std::fs::read_to_string(&status).is_ok_and(|stat| stat.contains(") T ")) {
        assert!(began.elapsed().as_secs() < 60, "it never came so far");
        std::thread::sleep(Duration::from_millis(1));
    }
    rustix::fs::syncfs(File::open(&disk.mounted_at).unwrap()).unwrap();
}

#[test]
fn a_power_cut_while_a_store_opens_costs_nothing() {
    let plan = PLANS[0];
    let options = Cut::new(0).options();
    if let Ok(directory) = std::env::var(OPENS) {
        let opened = DiskStore::open(directory, options);
        opened.unwrap_or_else(|error| panic!("does not open: {error}"));
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let made = halfway::build(root.path()).and_then(|library| {
        let mut disk = Disk::make(root.path())?;
        disk.mount().map(|()| (library, disk))
    });
    let (library, mut disk) = match made {
        Ok(made) => made,
        Err(reason) => {
            skipped!(
                "no power is cut, because no file system could be made and mounted, or no \
                 library built: {reason}"
            );
            return;
        }
    };
    let store = disk.mounted_at.join("store");
    let (mut acknowledged, mut first) = (Acknowledged::new(), 1);
    let cuts = 6;
    for cut in 0..cuts {
        {
            let opened = DiskStore::open(&store, options);
            let opened = opened.unwrap_or_else(|error| panic!("cut {cut}: does not open: {error}"));
            plan.check(&opened, &acknowledged);
            for counter in first..first + 3000 {
                acknowledged.insert(plan.apply(&opened, counter), counter);
            }
            first += 3000;
            opened.checkpoint().unwrap();
        }
        let mut opener = Command::new(std::env::current_exe().unwrap());
        let test = "a_power_cut_while_a_store_opens_costs_nothing";
        let opener = opener
            .args(["--exact", test, "--nocapture"])
            .env(OPENS, &store)
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let stop = rustix::process::Signal::STOP;
        let mut child = halfway::halfway(opener, &library, stop).spawn().unwrap();
        wait_until_halfway(&child, &disk);
        disk.cut_power();
        end(&mut child);
        disk.unmount().unwrap();
        disk.mount().unwrap();
    }
    let opened = DiskStore::open(&store, options).unwrap();
    plan.check(&opened, &acknowledged);
    drop(opened);
    disk.unmount().unwrap();
    println!("{cuts} cuts in the midst of a snapshot: nothing lost");
}
