//! The plan: read again when its file changes, counted without locks.

use std::ffi::{CStr, c_char, c_int};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering::SeqCst};

/// Most rules of a plan.
const RULES: usize = 8;

/// Longest plan and longest path in bytes.
const LONGEST: usize = 4096;

/// What a rule does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// The call does nothing and fails with this number.
    Fail(c_int),
    /// Half of the bytes are written, and the call says so, as the system may do at any time.
    Short,
    /// Half of the bytes are written, and the call fails with EIO.
    Torn,
    /// The process is killed before the call.
    Kill,
    /// The call happens as ever, and is counted among the hits.
    Pass,
}

/// The text of a plan with the file it came from.
struct Text {
    bytes: [u8; LONGEST],
    len: usize,
}

/// Counts of calls by rule, and of the plan that they belong to.
static SEEN: [AtomicU64; RULES] = [const { AtomicU64::new(0) }; RULES];
static STAMP: [AtomicI64; 2] = [const { AtomicI64::new(-1) }; 2];
static OFF: AtomicBool = AtomicBool::new(false);
static LENGTH: AtomicUsize = AtomicUsize::new(0);

/// Returns what is to happen to a call on an open file.
pub(crate) fn at_file(call: &[u8], fd: c_int) -> Option<Action> {
    if OFF.load(SeqCst) {
        return None;
    }
    let mut link = *b"/proc/self/fd/\0\0\0\0\0\0\0\0\0\0\0\0";
    let mut digits = [0u8; 10];
    let (mut rest, mut n) = (u32::try_from(fd).ok()?, 0);
    loop {
        digits[n] = b'0' + u8::try_from(rest % 10).ok()?;
        rest /= 10;
        n += 1;
        if rest == 0 {
            break;
        }
    }
    for i in 0..n {
        link[14 + i] = digits[n - 1 - i];
    }
    let mut path = [0u8; LONGEST];
    // SAFETY: the link is a string that ends with a zero byte, and the length is that of the buffer.
    let len = unsafe {
        libc::syscall(libc::SYS_readlinkat, libc::AT_FDCWD, link.as_ptr(), path.as_mut_ptr(), path.len())
    };
    at(call, path.get(..usize::try_from(len).ok()?)?)
}

/// Returns what is to happen to a call on a path.
///
/// # Safety
///
/// `path` is null or a string that ends with a zero byte.
pub(crate) unsafe fn at_path(call: &[u8], path: *const c_char) -> Option<Action> {
    if OFF.load(SeqCst) || path.is_null() {
        return None;
    }
    // SAFETY: the caller says so.
    at(call, unsafe { CStr::from_ptr(path) }.to_bytes())
}

fn at(call: &[u8], path: &[u8]) -> Option<Action> {
    let text = read()?;
    let mut found = None;
    for (i, rule) in text.bytes.get(..text.len)?.split(|b| *b == b'\n').take(RULES).enumerate() {
        let mut words = rule.split(|b| *b == b' ');
        let (kind, part) = (words.next()?, words.next());
        let Some(part) = part else { continue };
        if kind != call || !contains(path, part) {
            continue;
        }
        let (from, times) = (number(words.next()?)?, number(words.next()?)?);
        let seen = SEEN.get(i)?.fetch_add(1, SeqCst) + 1;
        if found.is_none() && seen >= from && (times == 0 || seen < from + times) {
            found = action(words.next()?);
            note(rule);
        }
    }
    found
}

fn action(name: &[u8]) -> Option<Action> {
    Some(match name {
        b"EIO" => Action::Fail(libc::EIO),
        b"ENOSPC" => Action::Fail(libc::ENOSPC),
        b"EINTR" => Action::Fail(libc::EINTR),
        b"SHORT" => Action::Short,
        b"TORN" => Action::Torn,
        b"KILL" => Action::Kill,
        b"PASS" => Action::Pass,
        _ => return None,
    })
}

fn contains(path: &[u8], part: &[u8]) -> bool {
    // A part that ends with a dollar sign is the end of the path.
    match part.strip_suffix(b"$") {
        Some(end) => path.ends_with(end),
        None => part.is_empty() || path.windows(part.len()).any(|w| w == part),
    }
}

fn number(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0u64, |n, b| {
        b.is_ascii_digit().then(|| n.checked_mul(10)?.checked_add(u64::from(b - b'0')))?
    })
}

/// Returns the path of the plan with what is to stand behind it.
fn plan_path(suffix: &[u8]) -> Option<[u8; LONGEST]> {
    // SAFETY: the name ends with a zero byte; nobody in a process under test changes the environment.
    let name = unsafe { libc::getenv(c"MIRROR_FAULTS".as_ptr()) };
    if name.is_null() {
        OFF.store(true, SeqCst);
        return None;
    }
    // SAFETY: what getenv returns ends with a zero byte.
    let name = unsafe { CStr::from_ptr(name) }.to_bytes();
    let mut path = [0; LONGEST];
    path.get_mut(..name.len())?.copy_from_slice(name);
    path.get_mut(name.len()..name.len() + suffix.len())?.copy_from_slice(suffix);
    // The rest is zero; a path that fills all of it has no end.
    (name.len() + suffix.len() < LONGEST).then_some(path)
}

fn read() -> Option<Text> {
    let path = plan_path(b"")?;
    let flags = libc::O_RDONLY | libc::O_CLOEXEC;
    // SAFETY: the path ends with a zero byte.
    let fd = unsafe { libc::syscall(libc::SYS_openat, libc::AT_FDCWD, path.as_ptr(), flags) };
    let fd = c_int::try_from(fd).ok().filter(|fd| *fd >= 0)?;
    let mut text = Text { bytes: [0; LONGEST], len: 0 };
    // SAFETY: the length is that of the buffer.
    let n = unsafe { libc::syscall(libc::SYS_read, fd, text.bytes.as_mut_ptr(), LONGEST) };
    // SAFETY: all zeros are a valid `stat`, which is plain data.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: the buffer is a `stat`, and the descriptor is open.
    let stated = unsafe { libc::fstat(fd, &raw mut stat) };
    // SAFETY: the descriptor is this function's own.
    unsafe { libc::syscall(libc::SYS_close, fd) };
    text.len = usize::try_from(n).ok().filter(|_| stated == 0)?;
    // A plan is replaced by a rename, so another file is another plan.
    let stamp = [i64::try_from(stat.st_ino).unwrap_or(0), stat.st_mtime ^ stat.st_mtime_nsec];
    let news = STAMP.iter().zip(stamp).fold(false, |news, (had, now)| news | (had.swap(now, SeqCst) != now));
    if news | (LENGTH.swap(text.len, SeqCst) != text.len) {
        SEEN.iter().for_each(|seen| seen.store(0, SeqCst));
    }
    Some(text)
}

/// Writes a rule to the file of hits.
fn note(rule: &[u8]) {
    let Some(path) = plan_path(b".hits") else { return };
    let mut line = [b'\n'; 256];
    let Some(place) = line.get_mut(..rule.len()) else { return };
    place.copy_from_slice(rule);
    let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_APPEND | libc::O_CLOEXEC;
    // SAFETY: the path ends with a zero byte.
    let fd = unsafe { libc::syscall(libc::SYS_openat, libc::AT_FDCWD, path.as_ptr(), flags, 0o600) };
    if fd >= 0 {
        // SAFETY: the rule and one newline lie within the buffer; the descriptor is this function's own.
        unsafe {
            libc::syscall(libc::SYS_write, fd, line.as_ptr(), (rule.len() + 1).min(line.len()));
            libc::syscall(libc::SYS_close, fd);
        }
    }
}
