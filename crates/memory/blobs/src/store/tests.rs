//! Tests of the store.

use std::os::unix::fs::PermissionsExt as _;

use mirror_errors::Classify as _;
use proptest::prelude::{ProptestConfig, any, prop_assert, prop_assert_eq, proptest};

use super::*;

const LIMIT: u64 = 8 << 20;

struct Fixture {
    _temp: tempfile::TempDir,
    home: Home,
    store: Store,
}

fn fixture() -> Fixture {
    let temp = tempfile::tempdir().unwrap();
    let home = Home::at(temp.path().join("m")).unwrap();
    home.prepare().unwrap();
    let (store, leftovers) = Store::open(&home, LIMIT, 0).unwrap();
    assert_eq!(leftovers, 0);
    Fixture { _temp: temp, home, store }
}

impl Fixture {
    fn put(&self, content: &[u8]) -> Result<Receipt, BlobsError> {
        let mut upload = self.store.begin(None)?;
        content.chunks(100_000).try_for_each(|chunk| upload.write(chunk))?;
        upload.commit()
    }

    fn get(&self, digest: Digest) -> Result<Vec<u8>, BlobsError> {
        let mut reading = self.store.read(digest)?;
        let mut content = Vec::new();
        while let Some(part) = reading.next()? {
            assert!((1..=READ_BYTES).contains(&(part.len() as u64)));
            content.extend_from_slice(&part);
        }
        Ok(content)
    }

    /// Replaces the file of a blob by another with the same name.
    fn overwrite(&self, digest: Digest, content: &[u8]) {
        let path = self.store.path(digest);
        fs::remove_file(&path).unwrap();
        fs::write(path, content).unwrap();
    }

    fn in_progress(&self) -> Vec<String> {
        names(&self.home.blobs()).into_iter().filter(|name| is_temporary(name)).collect()
    }

    fn quarantined(&self) -> Vec<String> {
        names(&self.home.quarantine().join("blobs"))
    }
}

fn names(dir: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn content(len: usize) -> Vec<u8> {
    (0..len).map(|n| (n.wrapping_mul(2_654_435_761) >> 7) as u8).collect()
}

#[test]
fn a_blob_comes_back_as_it_went_in() {
    let f = fixture();
    for len in [0, 1, 65_536, 65_537, READ_BYTES as usize, READ_BYTES as usize + 1, 5 << 20] {
        let bytes = content(len);
        let receipt = f.put(&bytes).unwrap();
        assert_eq!((receipt.content.size, receipt.duplicate, receipt.replaced), (len as u64, false, false));
        let digest = receipt.content.digest;
        assert_eq!(digest.to_string(), blake3::hash(&bytes).to_hex().as_str());
        assert_eq!(f.get(digest).unwrap(), bytes);
        assert_eq!(f.store.info(digest).unwrap(), receipt.content);
        assert_eq!(f.store.check(digest).unwrap(), receipt.content);
    }
    assert_eq!(f.in_progress(), [""; 0]);
}

#[test]
fn a_blob_is_read_only_in_the_folder_of_its_first_digits() {
    let f = fixture();
    let digest = f.put(b"one").unwrap().content.digest;
    let path = f.home.blobs().join(&digest.to_string()[..2]).join(digest.to_string());
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o400, 0o700));
}

#[test]
fn the_same_content_is_stored_once() {
    let f = fixture();
    assert!(!f.put(b"one").unwrap().duplicate);
    let digest = f.put(b"one").unwrap().content.digest;
    assert!(f.put(b"one").unwrap().duplicate);
    assert_eq!(names(&f.home.blobs().join(digest.shard())), [digest.to_string()]);
    assert_eq!(f.in_progress(), [""; 0]);
}

#[test]
fn many_threads_that_put_the_same_content_store_it_once() {
    let f = fixture();
    let bytes = content(2 << 20);
    let receipts: Vec<Receipt> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| f.put(&bytes).unwrap())).collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    assert_eq!(receipts.iter().filter(|r| !r.duplicate).count(), 1);
    assert_eq!(f.get(receipts[0].content.digest).unwrap(), bytes);
    assert_eq!(f.in_progress(), [""; 0]);
    assert_eq!(f.quarantined(), [""; 0]);
}

#[test]
fn a_refused_upload_leaves_nothing() {
    let f = fixture();
    let digest = f.put(b"other").unwrap().content.digest;

    let mut upload = f.store.begin(Some(digest)).unwrap();
    upload.write(b"one").unwrap();
    assert_eq!(upload.commit().unwrap_err().reason(), "BLOBS_DIGEST_MISMATCH");

    assert_eq!(f.put(&content(LIMIT as usize + 1)).unwrap_err().reason(), "BLOBS_TOO_LARGE");
    f.put(&content(LIMIT as usize)).unwrap();

    let mut dropped = f.store.begin(None).unwrap();
    dropped.write(b"half").unwrap();
    assert_eq!(f.in_progress().len(), 1);
    drop(dropped);
    assert_eq!(f.in_progress(), [""; 0]);
    assert_eq!(names(&f.home.blobs()).len(), 2);
}

#[test]
fn the_reserve_of_the_disk_is_left_alone() {
    let f = fixture();
    let (store, _) = Store::open(&f.home, LIMIT, 1 << 60).unwrap();
    let error = store.begin(None).unwrap_err();
    assert_eq!(error.reason(), "BLOBS_DISK_RESERVE");
    assert!(error.to_string().contains("free some space"), "{error}");
    assert_eq!(f.in_progress(), [""; 0]);
}

#[test]
fn the_reserve_is_watched_while_an_upload_grows() {
    let f = fixture();
    let upload = f.store.begin(None).unwrap();
    let (tight, _) = Store::open(&f.home, LIMIT, 1 << 60).unwrap();
    let mut upload = Upload { store: tight, ..upload };
    assert_eq!(upload.write(b"one").unwrap_err().reason(), "BLOBS_DISK_RESERVE");
}

#[test]
fn a_full_disk_is_an_eaten_reserve() {
    for kind in [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded] {
        assert_eq!(BlobsError::storage("write")(kind.into()).reason(), "BLOBS_DISK_RESERVE");
    }
    assert_eq!(BlobsError::storage("write")(io::ErrorKind::Other.into()).reason(), "BLOBS_STORAGE");
}

#[test]
fn a_start_removes_what_a_kill_left_and_nothing_else() {
    let f = fixture();
    let digest = f.put(b"one").unwrap().content.digest;
    let mut killed = f.store.begin(None).unwrap();
    killed.write(b"half").unwrap();
    // What SIGKILL does: no destructor runs.
    std::mem::forget(killed);
    assert_eq!(f.in_progress().len(), 1);
    for foreign in [".put-notes", "README", ".DS_Store"] {
        fs::write(f.home.blobs().join(foreign), "x").unwrap();
    }
    fs::create_dir(f.home.blobs().join(temporary_name([7; 8]))).unwrap();

    let (store, leftovers) = Store::open(&f.home, LIMIT, 0).unwrap();
    assert_eq!(leftovers, 1);
    assert_eq!(store.check(digest).unwrap().size, 3);
    let kept = names(&f.home.blobs());
    for name in [".put-notes", "README", ".DS_Store", &temporary_name([7; 8])] {
        assert!(kept.iter().any(|k| k == name), "{name} in {kept:?}");
    }
}

#[test]
fn a_damaged_blob_is_reported_at_its_end_and_moved_to_quarantine() {
    #[track_caller]
    fn check(damage: impl Fn(&mut Vec<u8>)) {
        let f = fixture();
        let bytes = content(600_000);
        let digest = f.put(&bytes).unwrap().content.digest;
        let mut damaged = bytes.clone();
        damage(&mut damaged);
        f.overwrite(digest, &damaged);

        let error = f.get(digest).unwrap_err();
        assert_eq!(error.reason(), "BLOBS_CORRUPT");
        assert!(error.to_string().contains("moved to quarantine/blobs"), "{error}");
        assert_eq!(f.get(digest).unwrap_err().reason(), "BLOBS_MISSING");
        assert_eq!(f.quarantined(), [digest.to_string()]);
        let kept = fs::read(f.home.quarantine().join("blobs").join(digest.to_string())).unwrap();
        assert_eq!(kept, damaged);

        assert!(!f.put(&bytes).unwrap().duplicate);
        assert_eq!(f.get(digest).unwrap(), bytes);
    }
    check(|bytes| bytes[0] ^= 1);
    check(|bytes| bytes[599_999] ^= 0x80);
    check(|bytes| bytes.truncate(300_000));
    check(Vec::clear);
    check(|bytes| bytes.push(0));
}

#[test]
fn putting_the_content_again_replaces_a_damaged_file() {
    let f = fixture();
    let digest = f.put(b"one").unwrap().content.digest;
    for round in 1..=3 {
        f.overwrite(digest, b"two");
        let receipt = f.put(b"one").unwrap();
        assert_eq!((receipt.duplicate, receipt.replaced), (false, true));
        assert_eq!(f.get(digest).unwrap(), b"one");
        assert_eq!(f.quarantined().len(), round);
    }
    assert_eq!(f.quarantined()[2], format!("{digest}.3"));
}

#[test]
fn a_late_reader_of_a_damaged_file_leaves_its_good_successor_alone() {
    let f = fixture();
    let digest = f.put(b"one").unwrap().content.digest;
    f.overwrite(digest, b"two");
    let mut late = f.store.read(digest).unwrap();
    assert!(f.put(b"one").unwrap().replaced);
    assert_eq!(late.next().unwrap().as_deref(), Some(&b"two"[..]));
    assert_eq!(late.next().unwrap_err().reason(), "BLOBS_CORRUPT");
    assert_eq!(f.get(digest).unwrap(), b"one");
    assert_eq!(f.quarantined().len(), 1);
}

#[test]
fn a_damaged_file_that_cannot_be_moved_stays_and_is_still_reported() {
    let f = fixture();
    let digest = f.put(b"one").unwrap().content.digest;
    f.overwrite(digest, b"two");
    fs::write(f.home.quarantine().join("blobs"), "in the way").unwrap();
    let error = f.get(digest).unwrap_err();
    assert_eq!(error.reason(), "BLOBS_CORRUPT");
    assert!(error.to_string().contains("could not be moved"), "{error}");
    assert_eq!(f.put(b"one").unwrap_err().reason(), "BLOBS_STORAGE");
    assert_eq!(fs::read(f.store.path(digest)).unwrap(), b"two");
    assert_eq!(f.in_progress(), [""; 0]);
}

#[test]
fn what_is_not_a_file_is_not_a_blob() {
    let f = fixture();
    let digest = f.put(b"one").unwrap().content.digest;
    fs::remove_file(f.store.path(digest)).unwrap();
    fs::create_dir(f.store.path(digest)).unwrap();
    assert_eq!(f.store.info(digest).unwrap_err().reason(), "BLOBS_STORAGE");
    assert_eq!(f.put(b"one").unwrap_err().reason(), "BLOBS_STORAGE");
    assert_eq!(f.in_progress(), [""; 0]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_flipped_bit_shows(bytes in proptest::collection::vec(any::<u8>(), 1..2_000), at in any::<usize>(), bit in 0_u8..8) {
        let f = fixture();
        let digest = f.put(&bytes).unwrap().content.digest;
        let mut damaged = bytes;
        let at = at % damaged.len();
        damaged[at] ^= 1 << bit;
        f.overwrite(digest, &damaged);
        prop_assert_eq!(f.store.check(digest).unwrap_err().reason(), "BLOBS_CORRUPT");
        prop_assert!(f.quarantined().contains(&digest.to_string()));
    }
}
