//! The index of shards: what is accepted names each tensor once, and no file outside its directory.
#![no_main]

use std::collections::BTreeSet;
use std::path::Path;

use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use smoke_storage::format::parse_shard_index;

fuzz_target!(|text: &[u8]| {
    let Ok(index) = parse_shard_index(text) else { return };
    // Fields that are ignored may hold numbers that this reading does not take.
    let Ok(json) = serde_json::from_slice::<Value>(text) else { return };
    let map = json["weight_map"].as_object().expect("it has a map");
    let directory = Path::new("/models/fog");
    let mut names = BTreeSet::new();
    for (shard, tensors) in &index.shards {
        let path = directory.join(shard);
        assert_eq!(path.parent(), Some(directory), "{shard:?} is outside");
        assert_eq!(path.file_name().and_then(|name| name.to_str()), Some(shard.as_str()), "{shard:?} is no name");
        assert!(!tensors.is_empty());
        for tensor in tensors {
            assert!(names.insert(tensor), "{tensor:?} has two shards");
            assert_eq!(map[tensor].as_str(), Some(shard.as_str()));
        }
    }
    assert_eq!(names.len(), map.len());
    assert!(!names.is_empty());
});
