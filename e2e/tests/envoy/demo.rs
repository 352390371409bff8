//! The demo, as `make demo` plays it.

use cli::demo::play;
use cli::stack::Stack;
use e2e::stacks::{options, ports, told};

#[tokio::test]
async fn every_outcome_is_as_the_demo_expects_it() {
    let stack = Stack::start(options("demo", ports::DEMO).unwrap()).unwrap_or_else(|error| panic!("{}", told(&error)));
    let rows = play(stack.state()).await.unwrap();
    let faults: Vec<String> =
        rows.iter().filter_map(|row| Some(format!("{} ({}): {}", row.outcome, row.request, row.fault.as_ref()?))).collect();
    assert!(rows.len() >= 35, "{} outcomes", rows.len());
    assert!(faults.is_empty(), "{} of {} outcomes differ:\n{}", faults.len(), rows.len(), faults.join("\n"));
    stack.stop();
}
