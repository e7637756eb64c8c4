use smoke_burn::{Cut, Layout, LayoutError, Phase};
use smoke_core::{Encoding, UnitId};
use smoke_storage::{MemorySource, WeightSource};

fn source() -> MemorySource {
    let tensor = |name: &str, encoding: Encoding, shape: &[u64]| {
        let bytes = encoding.bytes_for(shape.iter().product()).unwrap();
        (name.to_owned(), encoding, shape.to_vec(), vec![0_u8; bytes as usize])
    };
    MemorySource::new(vec![
        tensor("table", Encoding::F32, &[100, 16]),
        tensor("norm", Encoding::F32, &[16]),
        tensor("small", Encoding::F16, &[4, 16]),
        tensor("ids", Encoding::I64, &[4]),
    ])
    .unwrap()
}

#[test]
fn a_large_matrix_is_cut_by_rows_and_small_tensors_share_a_unit() {
    let source = source();
    let mut layout = Layout::new(source.index(), 1, 1024);
    let norm = layout.place("norm", &[16], Cut::Whole).unwrap();
    let small = layout.place("small", &[4, 16], Cut::ByRow).unwrap();
    let table = layout.place("table", &[100, 16], Cut::ByRow).unwrap();
    assert_eq!(norm.pieces[0].part.unit, small.pieces[0].part.unit);
    let rows: Vec<usize> = table.pieces.iter().map(|piece| piece.rows).collect();
    assert_eq!(rows.iter().sum::<usize>(), 100);
    let mut next = 0;
    for piece in &table.pieces {
        assert_eq!(piece.first_row, next);
        next += piece.rows;
    }
    let (units, schedule) = layout.finish();
    assert!(units.units().all(|unit| units.payload_bytes(unit) <= 1024));
    assert_eq!(schedule.cycle, (0..units.len() as u32).map(UnitId).collect::<Vec<_>>());
    assert_eq!(schedule.prologue, []);
}

#[test]
fn a_tensor_that_is_used_twice_has_one_place_and_two_uses() {
    let source = source();
    let mut layout = Layout::new(source.index(), 1, 512);
    let first = layout.place("table", &[100, 16], Cut::ByRow).unwrap();
    layout.place("norm", &[16], Cut::Whole).unwrap();
    let second = layout.place("table", &[100, 16], Cut::ByRow).unwrap();
    assert_eq!(first.pieces, second.pieces);
    let (units, schedule) = layout.finish();
    assert!(schedule.cycle.len() > units.len());
    assert_eq!(schedule.cycle.iter().filter(|&&unit| unit == UnitId(0)).count(), 2);
}

#[test]
fn each_phase_has_units_of_its_own() {
    let source = source();
    let mut layout = Layout::new(source.index(), 1, 1024);
    layout.begin(Phase::Prologue);
    let norm = layout.place("norm", &[16], Cut::Whole).unwrap();
    layout.begin(Phase::Aside);
    layout.place("table", &[100, 16], Cut::Whole).unwrap();
    layout.begin(Phase::Pass);
    layout.place("small", &[4, 16], Cut::Whole).unwrap();
    // In both: what was placed in the prologue is used again in each pass.
    assert_eq!(layout.place("norm", &[16], Cut::Whole).unwrap().pieces, norm.pieces);
    let (units, schedule) = layout.finish();
    assert_eq!(units.len(), 3);
    assert_eq!(schedule.prologue, [UnitId(0)]);
    assert_eq!(schedule.cycle, [UnitId(2), UnitId(0)]);
}

#[test]
fn whole_tensors_stay_whole() {
    let source = source();
    let mut layout = Layout::new(source.index(), 1, 512);
    assert_eq!(layout.place("table", &[100, 16], Cut::Whole).unwrap().pieces.len(), 1);
}

#[test]
fn tensors_that_do_not_fit_the_model_are_refused_by_name() {
    let source = source();
    let mut layout = Layout::new(source.index(), 1, 512);
    let error = layout.place("absent", &[1], Cut::Whole).unwrap_err();
    assert!(matches!(&error, LayoutError::Missing { name } if name == "absent"));
    let error = layout.place("norm", &[17], Cut::Whole).unwrap_err();
    assert!(matches!(&error, LayoutError::Shape { name, .. } if name == "norm"));
    let error = layout.place("ids", &[4], Cut::Whole).unwrap_err();
    assert!(matches!(&error, LayoutError::Encoding { name, .. } if name == "ids"));
}
