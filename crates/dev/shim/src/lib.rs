//! A library for `LD_PRELOAD` that lets file operations of a process fail, stop short or kill it, by a plan.
//!
//! The plan is the file that `MIRROR_FAULTS` names: lines `<call> <part of the path> <from> <times> <action>`. `from` counts
//! the calls of that kind on such paths from 1, `times` 0 means for ever. The file may be replaced while the process
//! runs, which begins all counts anew; each fault that happens adds its rule to the file with the suffix `.hits`.
//! It refuses to allocate and to call anything that it intercepts: the real work is done by system calls.
//! On other systems than Linux it is empty.

#![cfg_attr(
    target_os = "linux",
    expect(
        unsafe_code,
        reason = "the functions stand in for those of libc, so their form and their safety are libc's"
    )
)]

#[cfg(target_os = "linux")]
mod calls;
#[cfg(target_os = "linux")]
mod plan;
