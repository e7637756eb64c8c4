//! What was learnt, kept as a file: it comes back the same, and anything else is refused by name.

use std::fs;
use std::path::PathBuf;

use smoke_predict::experts::{ExpertPredictor, ExpertShape, LearnedExperts, LearnedFileError, LearnedShape, Routed};

const SHAPE: LearnedShape =
    LearnedShape { experts: ExpertShape { layers: 3, experts: 4, used: 1 }, inputs: 2, model: 0x1234_5678_9abc };

fn taught(tokens: usize) -> LearnedExperts {
    let mut learned = LearnedExperts::new(SHAPE);
    teach(&mut learned, 0..tokens);
    learned
}

fn teach(learned: &mut LearnedExperts, tokens: std::ops::Range<usize>) -> Vec<f32> {
    let (mut said, mut out) = (Vec::new(), Vec::new());
    for (token, layer) in tokens.flat_map(|token| (0..3).map(move |layer| (token, layer))) {
        let x = (token * 3 + layer) as f32;
        let scores = [x.sin(), x.cos(), (2.0 * x).sin(), 0.3];
        let chosen = [(token % 4) as u32];
        learned.observe(&Routed {
            layer,
            chosen: &chosen,
            scores: &scores,
            input: &[x.sin(), 1.0],
            ..Routed::default()
        });
        for ahead in 1..=2 {
            learned.predict(ahead, &mut out);
            said.extend_from_slice(&out);
        }
    }
    said
}

fn file() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(LearnedExperts::FILE_NAME);
    taught(100).save(&path).unwrap();
    (directory, path)
}

#[test]
fn what_was_learnt_comes_back_and_goes_on_alike() {
    let (directory, path) = file();
    let (mut kept, mut loaded) = (taught(100), LearnedExperts::load(&path, SHAPE).unwrap());
    assert_eq!(teach(&mut kept, 100..140), teach(&mut loaded, 100..140));
    assert_ne!(teach(&mut LearnedExperts::new(SHAPE), 100..140), teach(&mut loaded, 100..140));
    // Written again, it takes the old one's place and leaves nothing beside it.
    loaded.save(&path).unwrap();
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    LearnedExperts::load(&path, SHAPE).unwrap();
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let (_directory, path) = file();
    let whole = fs::read(&path).unwrap();
    for length in 0..whole.len() {
        fs::write(&path, &whole[..length]).unwrap();
        let error = LearnedExperts::load(&path, SHAPE).unwrap_err();
        assert!(
            matches!(error, LearnedFileError::Foreign { .. } | LearnedFileError::Damaged { .. }),
            "{length}: {error}"
        );
        assert_eq!(length < 8, matches!(error, LearnedFileError::Foreign { .. }), "{length}: {error}");
    }
    fs::write(&path, [&whole[..], &[0]].concat()).unwrap();
    let error = LearnedExperts::load(&path, SHAPE).unwrap_err();
    assert!(error.to_string().contains("too long") && error.to_string().contains("experts.smoke"), "{error}");
}

#[test]
fn a_file_with_any_byte_changed_is_refused() {
    let (_directory, path) = file();
    let whole = fs::read(&path).unwrap();
    for place in 0..whole.len() {
        let mut changed = whole.clone();
        changed[place] ^= 0x10;
        fs::write(&path, &changed).unwrap();
        let error = LearnedExperts::load(&path, SHAPE).unwrap_err();
        let is_named = match place {
            0..8 => matches!(error, LearnedFileError::Foreign { .. }),
            8..12 => matches!(error, LearnedFileError::Version { .. }),
            12..36 => matches!(error, LearnedFileError::Shape { .. }),
            _ => matches!(error, LearnedFileError::Damaged { .. }),
        };
        assert!(is_named, "{place}: {error}");
    }
}

#[test]
fn numbers_that_are_not_finite_are_refused_though_the_checksum_is_right() {
    let (_directory, path) = file();
    let mut bytes = fs::read(&path).unwrap();
    bytes[36..40].copy_from_slice(&f32::NAN.to_le_bytes());
    let end = bytes.len() - 4;
    let checksum = crc32fast::hash(&bytes[..end]);
    bytes[end..].copy_from_slice(&checksum.to_le_bytes());
    fs::write(&path, &bytes).unwrap();
    let error = LearnedExperts::load(&path, SHAPE).unwrap_err();
    assert!(error.to_string().contains("not finite"), "{error}");
}

#[test]
fn another_model_or_no_file_is_refused() {
    let (directory, path) = file();
    let other = LearnedShape { model: 1, ..SHAPE };
    assert!(matches!(LearnedExperts::load(&path, other), Err(LearnedFileError::Shape { .. })));
    let error = LearnedExperts::load(&directory.path().join("none"), SHAPE).unwrap_err();
    assert!(matches!(error, LearnedFileError::Read { .. }));
    let error = taught(1).save(&directory.path().join("no/such/directory")).unwrap_err();
    assert!(matches!(error, LearnedFileError::Write { .. }));
}
