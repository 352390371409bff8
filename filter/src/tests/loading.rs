//! Large bundles: loaded a bit in each tick while the one in force goes on deciding, and dropped the same way.

use super::gate::{Gate, Request, document, image, version};
use super::host::SharedData;
use super::tokens;
use crate::counters::name;
use crate::pipeline::Step;
use std::rc::Rc;
use std::time::Duration;
use wire::bundle::{Bundle, BundleVersion, ShadowPolicy};
use wire::policy::PolicyDocument;

const POLL: &str = "/data-plane/v1/bundle";
const TICK: Duration = Duration::from_millis(20);
/// What a look at the clock costs here: six steps of loading fill what a tick has for them.
const PACE: Duration = Duration::from_micros(500);

/// The default policy with so many routes more.
fn large(routes: usize) -> PolicyDocument {
    let mut document = document();
    let like = document.routes.iter().find(|route| route.name == "tasks.list").unwrap().clone();
    document.routes.extend((0..routes).map(|number| {
        let mut route = like.clone();
        (route.name, route.path) = (format!("large.{number}"), format!("/large/{number}"));
        route
    }));
    document
}

fn activation(gate: &Gate) -> Option<u64> {
    gate.vm.borrow().active.as_ref().map(|active| active.version.activation)
}

/// Ticks until the machine polls, and answers.
fn serve(gate: &Gate, image: Vec<u8>, etag: &str) {
    let call = (0..600).find_map(|_| {
        gate.run(TICK);
        gate.take_call(POLL)
    });
    gate.answer(&call.unwrap(), &[(":status", b"200"), ("etag", etag.as_bytes())], image);
}

#[test]
fn a_large_bundle_is_loaded_over_many_ticks_and_the_one_in_force_decides_meanwhile() {
    let shared = SharedData::default();
    let (mut gate, other) = (Gate::cold("PLANT", Rc::clone(&shared)), Gate::cold("PLANT", Rc::clone(&shared)));
    serve(&gate, image(&document(), version(1)), "\"1\"");
    gate.know_revocations(&[]);
    other.run(TICK);
    assert_eq!((activation(&gate), activation(&other)), (Some(1), Some(1)));
    let refresh = Request::new("POST", "/api/v1/auth/refresh");
    for gate in [&gate, &other] {
        gate.host.pace.set(PACE);
    }
    serve(&gate, image(&large(3_000), version(2)), "\"2\"");
    let mut ticks = 0;
    while activation(&gate) == Some(1) {
        assert!(gate.vm.borrow().loading.is_some() && ticks < 100);
        assert_eq!(gate.begin(&refresh).step, Step::Forward);
        assert!(gate.take_call(POLL).is_none(), "it polls for what it is loading");
        other.run(TICK);
        assert!(other.vm.borrow().loading.is_none(), "nothing is shared before it is in force here");
        let before = gate.host.now.get();
        gate.tick();
        let work = gate.host.now.get().since(before);
        assert!(work <= Duration::from_millis(5), "a tick worked for {work:?}");
        gate.host.pass(TICK);
        ticks += 1;
    }
    assert!(ticks > 5, "{ticks}");
    assert!(gate.vm.borrow().loading.is_none());
    assert_eq!(gate.vm.borrow().active.as_ref().unwrap().policy.routes().len(), large(3_000).routes.len());
    // The others load it as slowly.
    other.run(TICK);
    assert!(other.vm.borrow().loading.is_some());
    other.run(Duration::from_secs(2));
    assert_eq!(activation(&other), Some(2));
    // The next poll names it.
    gate.run(TICK);
    assert_eq!(gate.take_call(POLL).unwrap().header("if-none-match").as_deref(), Some("\"2\""));
}

#[test]
fn a_small_bundle_is_in_force_as_soon_as_it_comes_to_a_machine_without_one() {
    let gate = Gate::cold("PLANT", SharedData::default());
    gate.host.pace.set(PACE);
    serve(&gate, image(&document(), version(1)), "\"1\"");
    assert_eq!(activation(&gate), Some(1));
}

#[test]
fn a_newer_bundle_takes_the_place_of_the_one_that_is_being_loaded() {
    let shared = SharedData::default();
    let (gate, other) = (Gate::cold("PLANT", Rc::clone(&shared)), Gate::cold("PLANT", shared));
    serve(&gate, image(&document(), version(1)), "\"1\"");
    other.run(TICK);
    serve(&gate, image(&large(2_000), version(2)), "\"2\"");
    other.host.pace.set(PACE);
    other.run(TICK);
    assert_eq!(*other.vm.borrow().loading.as_ref().unwrap().version(), version(2));
    serve(&gate, image(&large(1_000), version(3)), "\"3\"");
    other.tick();
    assert_eq!((*other.vm.borrow().loading.as_ref().unwrap().version(), activation(&other)), (version(3), Some(1)));
    for _ in 0..100 {
        if activation(&other) == Some(1) {
            other.run(TICK);
        }
    }
    assert_eq!(activation(&other), Some(3), "the one in between was never in force");
}

#[test]
fn a_bundle_that_is_bad_at_its_very_end_changes_nothing() {
    let shared = SharedData::default();
    let (mut gate, other) = (Gate::cold("PLANT", Rc::clone(&shared)), Gate::cold("PLANT", shared));
    serve(&gate, image(&document(), version(1)), "\"1\"");
    gate.host.pace.set(PACE);
    let mut bad = large(1_000);
    bad.routes.last_mut().unwrap().path = "//".into();
    serve(&gate, image(&bad, version(2)), "\"2\"");
    assert!(gate.vm.borrow().loading.is_some());
    gate.run(Duration::from_secs(1));
    other.run(TICK);
    assert_eq!((activation(&gate), activation(&other), gate.host.metric(name::BUNDLE_REFUSED)), (Some(1), Some(1), 1));
    assert_eq!(gate.vm.borrow().feed.standing(&gate.host).text(), "bundle refused: see the log");
    assert_eq!(gate.begin(&Request::new("POST", "/api/v1/auth/refresh")).step, Step::Forward);
}

#[test]
fn a_policy_is_dropped_bit_by_bit_when_the_last_request_that_began_with_it_has_ended() {
    let mut gate = Gate::with("PLANT", |policy| *policy = large(1_500));
    let request = Request::new("GET", "/api/v1/tasks").bearer(&tokens::admin());
    gate.warm(&request);
    let stream = gate.begin(&request);
    gate.activate(2);
    gate.run(Duration::from_millis(200));
    assert_eq!(gate.vm.borrow().retired.len(), 1, "the tokens are gone, the policy is in use");
    gate.complete(&stream);
    assert_eq!(gate.last_record()["activation"], 1);
    drop(stream);
    let ticks = (0..100).take_while(|_| {
        let left = gate.vm.borrow().retired.len();
        gate.run(TICK);
        left > 0
    });
    let ticks = ticks.count();
    assert!((3..=5).contains(&ticks), "{ticks}");
}

fn numbered(activation: u64, key_set: u64, shadow: u64) -> BundleVersion {
    BundleVersion { key_set, shadow, ..version(activation) }
}

#[test]
fn a_replica_that_lags_behind_is_counted_and_asked_with_patience() {
    let gate = Gate::cold("PLANT", SharedData::default());
    serve(&gate, image(&document(), numbered(5, 2, 1)), "\"5\"");
    for (times, behind) in
        [numbered(4, 9, 9), numbered(5, 1, 9), numbered(5, 2, 0), numbered(1, 1, 1), numbered(4, 1, 1)].into_iter().enumerate()
    {
        let before = gate.host.now.get();
        serve(&gate, image(&document(), behind), "\"other\"");
        assert_eq!(activation(&gate), Some(5));
        assert_eq!(gate.host.metric(name::BUNDLE_OUTDATED), i64::try_from(times).unwrap() + 1);
        assert_eq!(gate.vm.borrow().feed.standing(&gate.host).text(), "connected");
        if times > 0 {
            let waited = gate.host.now.get().since(before);
            assert!(waited >= Duration::from_millis(250 << (times - 1)) && waited < Duration::from_secs(5), "{times}: {waited:?}");
        }
    }
    let warnings = gate.host.logs.borrow().iter().filter(|(_, line)| line.contains("lags behind")).count();
    assert_eq!((warnings, gate.host.metric(name::BUNDLE_REFUSED)), (1, 0));
    // The other replica has what is in force, and then something newer.
    serve(&gate, image(&document(), numbered(5, 2, 1)), "\"5\"");
    assert_eq!(gate.host.metric(name::BUNDLE_OUTDATED), 5);
    serve(&gate, image(&document(), numbered(6, 1, 1)), "\"6\"");
    assert_eq!(activation(&gate), Some(6));
}

#[test]
fn another_database_is_taken_and_a_restored_one_only_when_its_numbers_have_risen() {
    let gate = Gate::cold("PLANT", SharedData::default());
    serve(&gate, image(&document(), version(50)), "\"50\"");
    serve(&gate, image(&document(), version(40)), "\"40\"");
    assert_eq!((activation(&gate), gate.host.metric(name::BUNDLE_OUTDATED)), (Some(50), 1));
    serve(&gate, image(&document(), version(51)), "\"51\"");
    assert_eq!(activation(&gate), Some(51));
    serve(&gate, image(&document(), BundleVersion { database_id: [9; 16], ..version(1) }), "\"1\"");
    assert_eq!((activation(&gate), gate.host.metric(name::BUNDLE_OUTDATED)), (Some(1), 1));
}

#[test]
fn a_shadow_alone_is_a_new_version_for_everybody() {
    let shared = SharedData::default();
    let (gate, other) = (Gate::cold("PLANT", Rc::clone(&shared)), Gate::cold("PLANT", shared));
    serve(&gate, image(&document(), numbered(5, 1, 0)), "\"5\"");
    other.run(TICK);
    let mut bundle = Bundle::decode(&image(&document(), numbered(5, 1, 1))).unwrap();
    bundle.shadow = Some(ShadowPolicy { revision: 77, policy: large(10), rules: None });
    serve(&gate, bundle.encode().unwrap(), "\"5-1\"");
    other.run(TICK);
    for gate in [&gate, &other] {
        let vm = gate.vm.borrow();
        let active = vm.active.as_ref().unwrap();
        assert_eq!((active.version, active.shadow.as_ref().map(|shadow| shadow.revision)), (numbered(5, 1, 1), Some(77)));
    }
    serve(&gate, image(&document(), numbered(5, 1, 2)), "\"5-2\"");
    other.run(TICK);
    assert!(other.vm.borrow().active.as_ref().unwrap().shadow.is_none());
}
