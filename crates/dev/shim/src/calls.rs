//! The functions of libc that are intercepted; each does its work by a system call, as libc does.

use std::ffi::{c_char, c_int, c_uint, c_void};

use libc::{mode_t, off_t, size_t, ssize_t};

use crate::plan::{Action, at_file, at_path};

/// What a call that writes goes on with.
enum Write {
    /// So many of the bytes.
    Bytes(usize),
    /// So many of the bytes, and then it fails.
    Torn(usize),
    Fail(c_int),
}

fn fail(code: c_int) -> c_int {
    // SAFETY: the location is this thread's own.
    unsafe { *libc::__errno_location() = code };
    -1
}

fn kill() {
    // SAFETY: takes numbers only; the process ends here.
    unsafe { libc::syscall(libc::SYS_kill, libc::getpid(), libc::SIGKILL) };
}

/// Decides about a call that moves no bytes; returns the error, if it is to fail.
fn plain(action: Option<Action>) -> Option<c_int> {
    match action? {
        Action::Fail(code) => Some(code),
        // There is no half of it.
        Action::Short | Action::Torn => Some(libc::EIO),
        Action::Pass => None,
        Action::Kill => {
            kill();
            None
        }
    }
}

fn write_of(action: Option<Action>, len: usize) -> Write {
    match action {
        None | Some(Action::Pass) => Write::Bytes(len),
        Some(Action::Short) => Write::Bytes(len.div_ceil(2)),
        Some(Action::Torn) => Write::Torn(len / 2),
        Some(Action::Fail(code)) => Write::Fail(code),
        Some(Action::Kill) => {
            kill();
            Write::Fail(libc::EIO)
        }
    }
}

/// Runs a call that writes, with the number of bytes that it is left.
fn writing(action: Option<Action>, len: usize, run: impl Fn(usize) -> ssize_t) -> ssize_t {
    match write_of(action, len) {
        Write::Bytes(n) => run(n),
        Write::Torn(n) => {
            run(n);
            fail(libc::EIO) as ssize_t
        }
        Write::Fail(code) => fail(code) as ssize_t,
    }
}

/// Stands in for write(2).
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn write(fd: c_int, buf: *const c_void, len: size_t) -> ssize_t {
    // SAFETY: the arguments are the caller's, with a length that is at most his.
    writing(at_file(b"write", fd), len, |n| unsafe { libc::syscall(libc::SYS_write, fd, buf, n) as ssize_t })
}

/// Stands in for writev(2).
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn writev(fd: c_int, parts: *const libc::iovec, count: c_int) -> ssize_t {
    let action = at_file(b"write", fd);
    if matches!(action, Some(Action::Short | Action::Torn)) && count > 0 {
        // The first part alone is a short write too.
        // SAFETY: there is at least one part.
        let first = unsafe { *parts };
        // SAFETY: the part is the caller's, with a length that is at most his.
        return writing(action, first.iov_len, |n| unsafe {
            libc::syscall(libc::SYS_write, fd, first.iov_base, n) as ssize_t
        });
    }
    // SAFETY: the arguments are the caller's.
    writing(action, 0, |_| unsafe { libc::syscall(libc::SYS_writev, fd, parts, count) as ssize_t })
}

/// Stands in for pwrite(2).
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn pwrite(fd: c_int, buf: *const c_void, len: size_t, at: off_t) -> ssize_t {
    // SAFETY: the arguments are the caller's, with a length that is at most his.
    writing(at_file(b"pwrite", fd), len, |n| unsafe {
        libc::syscall(libc::SYS_pwrite64, fd, buf, n, at) as ssize_t
    })
}

/// Stands in for pwrite64(2).
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn pwrite64(fd: c_int, buf: *const c_void, len: size_t, at: off_t) -> ssize_t {
    // SAFETY: the arguments are the caller's.
    unsafe { pwrite(fd, buf, len, at) }
}

/// Stands in for fdatasync(2).
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn fdatasync(fd: c_int) -> c_int {
    match plain(at_file(b"fdatasync", fd)) {
        Some(code) => fail(code),
        // SAFETY: takes a number only.
        None => unsafe { libc::syscall(libc::SYS_fdatasync, fd) as c_int },
    }
}

/// Stands in for fsync(2).
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn fsync(fd: c_int) -> c_int {
    match plain(at_file(b"fsync", fd)) {
        Some(code) => fail(code),
        // SAFETY: takes a number only.
        None => unsafe { libc::syscall(libc::SYS_fsync, fd) as c_int },
    }
}

/// Stands in for sync_file_range(2), with which the index makes its pages durable.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn sync_file_range(fd: c_int, at: off_t, len: off_t, flags: c_uint) -> c_int {
    match plain(at_file(b"sync_file_range", fd)) {
        Some(code) => fail(code),
        // SAFETY: takes numbers only.
        None => unsafe { libc::syscall(libc::SYS_sync_file_range, fd, at, len, flags) as c_int },
    }
}

/// Stands in for ftruncate(2).
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn ftruncate(fd: c_int, len: off_t) -> c_int {
    match plain(at_file(b"ftruncate", fd)) {
        Some(code) => fail(code),
        // SAFETY: takes numbers only.
        None => unsafe { libc::syscall(libc::SYS_ftruncate, fd, len) as c_int },
    }
}

/// Stands in for ftruncate64(2).
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn ftruncate64(fd: c_int, len: off_t) -> c_int {
    // SAFETY: takes numbers only.
    unsafe { ftruncate(fd, len) }
}

/// Stands in for rename(2); the path that counts is the new one.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn rename(from: *const c_char, to: *const c_char) -> c_int {
    // SAFETY: the paths are the caller's.
    match plain(unsafe { at_path(b"rename", to) }) {
        Some(code) => fail(code),
        // SAFETY: the paths are the caller's.
        None => unsafe {
            libc::syscall(libc::SYS_renameat2, libc::AT_FDCWD, from, libc::AT_FDCWD, to, 0) as c_int
        },
    }
}

/// Stands in for openat(2). The mode counts only where a file may be made, and is harmless elsewhere.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn openat(dir: c_int, path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    // SAFETY: the path is the caller's.
    match plain(unsafe { at_path(b"open", path) }) {
        Some(code) => fail(code),
        // SAFETY: the arguments are the caller's.
        None => unsafe { libc::syscall(libc::SYS_openat, dir, path, flags, mode as c_uint) as c_int },
    }
}

/// Stands in for openat64(2).
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn openat64(
    dir: c_int,
    path: *const c_char,
    flags: c_int,
    mode: mode_t,
) -> c_int {
    // SAFETY: the arguments are the caller's.
    unsafe { openat(dir, path, flags, mode) }
}

/// Stands in for open(2).
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn open(path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    // SAFETY: the arguments are the caller's.
    unsafe { openat(libc::AT_FDCWD, path, flags, mode) }
}

/// Stands in for open64(2).
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn open64(path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    // SAFETY: the arguments are the caller's.
    unsafe { openat(libc::AT_FDCWD, path, flags, mode) }
}
