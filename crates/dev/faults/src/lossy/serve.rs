//! The tree as a file system of the kernel.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fuser::{
    BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty,
    ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, Request, TimeOrNow, WriteFlags,
};

use super::Disk;
use super::tree::{Bytes, Code, EIO, Inode, Kind, Tree, folder};

/// How long the kernel may keep attributes and names; nobody else changes them.
const TTL: Duration = Duration::from_secs(60);

/// Blocks of the volume, of 4096 bytes each.
const BLOCKS: u64 = 1 << 28;

pub(crate) struct Served(pub(crate) Arc<Disk>);

fn errno(code: Code) -> Errno {
    Errno::from_i32(code)
}

fn attr(ino: u64, inode: &Inode) -> FileAttr {
    let (kind, size) = match &inode.kind {
        Kind::File(file) => (FileType::RegularFile, file.seen.len() as u64),
        Kind::Dir { .. } => (FileType::Directory, 4096),
        Kind::Link(to) => (FileType::Symlink, to.len() as u64),
        Kind::Node => (FileType::Socket, 0),
    };
    let time =
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000) + Duration::from_micros(inode.changed);
    FileAttr {
        ino: INodeNo(ino),
        size,
        blocks: size.div_ceil(512),
        atime: time,
        mtime: time,
        ctime: time,
        crtime: time,
        kind,
        perm: u16::try_from(inode.mode & 0o7777).unwrap_or(0o700),
        nlink: 1,
        uid: inode.uid,
        gid: inode.gid,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

impl Served {
    fn read<T>(&self, run: impl FnOnce(&Tree) -> Result<T, Code>) -> Result<T, Errno> {
        self.0.read(run).map_err(errno)
    }

    fn change<T>(&self, run: impl FnOnce(&mut Tree) -> Result<T, Code>) -> Result<T, Errno> {
        self.0.change(run).map_err(errno)
    }

    fn make(
        &self,
        req: &Request,
        place: (INodeNo, &OsStr),
        kind: Kind,
        mode: u32,
    ) -> Result<FileAttr, Errno> {
        let inode = Inode { kind, mode, uid: req.uid(), gid: req.gid(), changed: 0 };
        self.change(|tree| {
            let ino = tree.make(place.0.0, place.1, inode)?;
            Ok(attr(ino, tree.get(ino)?))
        })
    }
}

fn entry(result: Result<FileAttr, Errno>, reply: ReplyEntry) {
    match result {
        Ok(attr) => reply.entry(&TTL, &attr, Generation(0)),
        Err(e) => reply.error(e),
    }
}

fn empty(result: Result<(), Errno>, reply: ReplyEmpty) {
    match result {
        Ok(()) => reply.ok(),
        Err(e) => reply.error(e),
    }
}

impl Filesystem for Served {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let found = self.read(|tree| {
            let ino = tree.lookup(parent.0, name)?;
            Ok(attr(ino, tree.get(ino)?))
        });
        entry(found, reply);
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.read(|tree| Ok(attr(ino.0, tree.get(ino.0)?))) {
            Ok(attr) => reply.attr(&TTL, &attr),
            Err(e) => reply.error(e),
        }
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let result = self.change(|tree| {
            if let Some(size) = size {
                tree.set_len(ino.0, usize::try_from(size).map_err(|_| EIO)?)?;
            }
            let inode = tree.get_mut(ino.0)?;
            // Modes and owners are taken for durable at once; nothing here depends on when they are.
            inode.mode = mode.map_or(inode.mode, |mode| (inode.mode & !0o7777) | (mode & 0o7777));
            inode.uid = uid.unwrap_or(inode.uid);
            inode.gid = gid.unwrap_or(inode.gid);
            Ok(attr(ino.0, inode))
        });
        match result {
            Ok(attr) => reply.attr(&TTL, &attr),
            Err(e) => reply.error(e),
        }
    }

    fn readlink(&self, _: &Request, ino: INodeNo, reply: ReplyData) {
        let found = self.read(|tree| match &tree.get(ino.0)?.kind {
            Kind::Link(to) => Ok(to.clone()),
            _ => Err(EIO),
        });
        match found {
            Ok(to) => reply.data(&to),
            Err(e) => reply.error(e),
        }
    }

    fn mknod(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _: u32,
        _: u32,
        reply: ReplyEntry,
    ) {
        let kind = if mode & 0o170_000 == 0o100_000 { Kind::File(Bytes::default()) } else { Kind::Node };
        entry(self.make(req, (parent, name), kind, mode), reply);
    }

    fn mkdir(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, _: u32, reply: ReplyEntry) {
        entry(self.make(req, (parent, name), folder(), mode), reply);
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        empty(self.change(|tree| tree.unlink(parent.0, name)), reply);
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        empty(self.change(|tree| tree.unlink(parent.0, name)), reply);
    }

    fn symlink(&self, req: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let kind = Kind::Link(target.as_os_str().as_bytes().to_vec());
        entry(self.make(req, (parent, name), kind, 0o120_777), reply);
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let keep = flags.contains(RenameFlags::RENAME_NOREPLACE);
        empty(self.change(|tree| tree.rename((parent.0, name), (new_parent.0, new_name), keep)), reply);
    }

    fn link(&self, _: &Request, ino: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let result = self.change(|tree| {
            tree.link(ino.0, parent.0, name)?;
            Ok(attr(ino.0, tree.get(ino.0)?))
        });
        entry(result, reply);
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::empty());
    }

    fn create(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _: u32,
        _: i32,
        reply: ReplyCreate,
    ) {
        match self.make(req, (parent, name), Kind::File(Bytes::default()), mode) {
            Ok(attr) => reply.created(&TTL, &attr, Generation(0), FileHandle(0), FopenFlags::empty()),
            Err(e) => reply.error(e),
        }
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let found = self.read(|tree| match &tree.get(ino.0)?.kind {
            Kind::File(file) => {
                let at = usize::try_from(offset).map_err(|_| EIO)?.min(file.seen.len());
                let end = at.saturating_add(size as usize).min(file.seen.len());
                Ok(file.seen[at..end].to_vec())
            }
            _ => Err(EIO),
        });
        match found {
            Ok(bytes) => reply.data(&bytes),
            Err(e) => reply.error(e),
        }
    }

    fn write(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let result = self.change(|tree| tree.write(ino.0, usize::try_from(offset).map_err(|_| EIO)?, data));
        match result {
            Ok(()) => reply.written(u32::try_from(data.len()).unwrap_or(0)),
            Err(e) => reply.error(e),
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsync(&self, _: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        empty(self.change(|tree| tree.sync(ino.0)), reply);
    }

    fn fsyncdir(&self, _: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        empty(self.change(|tree| tree.sync(ino.0)), reply);
    }

    fn readdir(&self, _: &Request, ino: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let found = self.read(|tree| {
            let kind = |ino: u64| match tree.get(ino).map(|i| &i.kind) {
                Ok(Kind::Dir { .. }) => FileType::Directory,
                Ok(Kind::Link(_)) => FileType::Symlink,
                Ok(Kind::Node) => FileType::Socket,
                _ => FileType::RegularFile,
            };
            Ok(tree
                .names(ino.0)?
                .iter()
                .map(|(name, ino)| (name.clone(), *ino, kind(*ino)))
                .collect::<Vec<_>>())
        });
        match found {
            Ok(names) => {
                let skip = usize::try_from(offset).unwrap_or(usize::MAX);
                for (i, (name, ino, kind)) in names.iter().enumerate().skip(skip) {
                    if reply.add(INodeNo(*ino), i as u64 + 1, *kind, name) {
                        break;
                    }
                }
                reply.ok();
            }
            Err(e) => reply.error(e),
        }
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        reply.statfs(BLOCKS, BLOCKS, BLOCKS, 1 << 20, 1 << 20, 4096, 255, 4096);
    }
}
