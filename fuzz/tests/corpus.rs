//! Every committed input through its target, without coverage and without the fuzzer's runtime.

use std::fs;
use std::path::Path;

use ringdesk_fuzz::TARGETS;

#[test]
fn every_committed_input_passes() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for (name, check) in TARGETS {
        let mut inputs = 0;
        for entry in fs::read_dir(corpus.join(name)).expect("a folder of inputs for each target") {
            let path = entry.expect("readable").path();
            println!("{}", path.display());
            check(&fs::read(&path).expect("readable"));
            inputs += 1;
        }
        assert!(inputs >= 10, "{name} has {inputs} inputs");
    }
    let folders = fs::read_dir(&corpus).expect("the corpus").count();
    assert_eq!(folders, TARGETS.len(), "a folder without a target");
}
