//! A bundle in the plugin configuration: begun with, superseded by any that is served, and refused whole if it is bad.

use super::gate::{Gate, Request, document, image, version};
use super::host::SharedData;
use super::tokens;
use crate::pipeline::Step;
use crate::root::configure;
use crate::vm::Origin;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use decision_core::causes::chain;
use jwt_simple::algorithms::{ECDSAP256KeyPairLike, ES256KeyPair};
use serde_json::json;
use std::rc::Rc;
use std::time::Duration;
use wire::bundle::{Bundle, KeyMaterial, KeysKnown};

/// The default policy with one public key, and no other keys.
fn embedded(activation: u64, change: impl FnOnce(&mut Bundle)) -> String {
    let mut document = document();
    document.issuers.iter_mut().for_each(|issuer| issuer.software_verification = wire::policy::SoftwareVerification::Allow);
    document.issuers.iter_mut().flat_map(|issuer| &mut issuer.keys).for_each(|key| key.algorithm = "ES256".into());
    let mut bundle = Bundle::decode(&image(&document, version(activation))).unwrap();
    for keys in &mut bundle.keys {
        (keys.known, keys.keys) = (KeysKnown::NotYet, vec![]);
    }
    let keys = bundle.keys.iter_mut().find(|keys| keys.issuer == "pp").unwrap();
    keys.known = KeysKnown::Always;
    let material = ES256KeyPair::generate().key_pair().public_key().to_der().unwrap();
    keys.keys = vec![KeyMaterial { kid: Some("pp-1".into()), algorithm: "ES256".into(), material }];
    change(&mut bundle);
    STANDARD.encode(bundle.encode().unwrap())
}

fn configured(gate: &Gate, bundle: &str) -> Result<(), String> {
    let configuration = json!({ "gateway": "PLANT", "poll_cluster": "control_plane_poll", "bundle": bundle });
    let configuration = serde_json::to_vec(&configuration).unwrap();
    configure(&mut gate.vm.borrow_mut(), &gate.host, &configuration).map(|_| ()).map_err(|error| chain(&error))
}

fn in_force(gate: &Gate) -> (u64, Origin) {
    gate.vm.borrow().active.as_ref().map(|active| (active.version.activation, active.origin)).unwrap()
}

#[test]
fn public_routes_are_served_at_once_and_tokens_when_it_is_known_what_is_revoked() {
    let mut gate = Gate::cold("PLANT", SharedData::default());
    configured(&gate, &embedded(4, |_| {})).unwrap();
    assert_eq!(in_force(&gate), (4, Origin::Embedded));
    assert_eq!(gate.begin(&Request::new("POST", "/api/v1/auth/refresh")).step, Step::Forward);
    let held = gate.begin(&Request::new("GET", "/api/v1/tasks").bearer(&tokens::admin()));
    assert_eq!(held.step, Step::Held);
    assert_eq!(gate.refused(&Request::new("GET", "/ready")).status, 503);
    gate.run(Duration::from_millis(3_040));
    assert_eq!(gate.reply(&held).unwrap().status, 503);
    gate.finish(&held);
    assert_eq!(gate.last_record()["reason"], json!("revocation_unknown"));
}

#[test]
fn without_a_control_plane_an_embedded_bundle_is_relied_on_no_longer_than_any_other() {
    let mut gate = Gate::cold("PLANT", SharedData::default());
    let allow = |bundle: &mut Bundle| {
        bundle.policy.failure_modes.get_or_insert_default().revocation = wire::policy::FailureMode::Open;
    };
    configured(&gate, &embedded(4, allow)).unwrap();
    // The tests' tokens are of an algorithm that this bundle does not know: judged, and refused.
    let request = Request::new("GET", "/api/v1/tasks").bearer(&tokens::admin());
    assert_eq!(gate.refused(&request).status, 401);
    gate.host.pass(Duration::from_secs(3_599));
    assert_eq!(gate.refused(&request).status, 401);
    gate.host.pass(Duration::from_secs(2));
    assert_eq!(gate.refused(&request).status, 503);
}

#[test]
fn any_bundle_that_is_served_takes_its_place_and_is_not_replaced_by_it() {
    let shared = SharedData::default();
    let (gate, other) = (Gate::cold("PLANT", Rc::clone(&shared)), Gate::cold("PLANT", shared));
    for gate in [&gate, &other] {
        configured(gate, &embedded(4, |_| {})).unwrap();
    }
    gate.run(Duration::from_millis(100));
    let call = gate.take_call("/data-plane/v1/bundle").unwrap();
    assert_eq!(call.header("if-none-match"), None);
    gate.answer(&call, &[(":status", b"200"), ("etag", b"\"4\"")], image(&document(), version(4)));
    assert_eq!(in_force(&gate), (4, Origin::Served), "the same version is good enough");
    other.run(Duration::from_millis(40));
    assert_eq!(in_force(&other), (4, Origin::Served));
    configured(&gate, &embedded(9, |_| {})).unwrap();
    assert_eq!(in_force(&gate), (4, Origin::Served));
    // An older one that is served counts more than a newer one that is embedded.
    let third = Gate::cold("PLANT", SharedData::default());
    configured(&third, &embedded(4, |_| {})).unwrap();
    configured(&third, &embedded(3, |_| {})).unwrap();
    assert_eq!(in_force(&third), (4, Origin::Embedded));
    third.activate(2);
    assert_eq!(in_force(&third), (2, Origin::Served));
}

#[test]
fn a_bad_one_refuses_the_configuration_and_says_why() {
    let gate = Gate::cold("PLANT", SharedData::default());
    let broken = STANDARD.encode(&STANDARD.decode(embedded(1, |_| {})).unwrap()[1..]);
    let secret =
        embedded(1, |bundle| bundle.keys[0].keys = vec![KeyMaterial { kid: None, algorithm: "HS256".into(), material: vec![1; 32] }]);
    let policy = embedded(1, |bundle| bundle.policy.routes[0].path = "//".into());
    for (bundle, said) in [
        ("?", "`bundle` is not standard base64"),
        ("", "`bundle` is not a usable bundle: the bundle is not a frame"),
        (&broken, "`bundle` is not a usable bundle: the bundle is not a frame"),
        (&secret, "`bundle` holds a shared secret of issuer `cp`"),
        (&policy, "the path `//` is not a template"),
    ] {
        let error = configured(&gate, bundle).unwrap_err();
        assert!(error.contains(said), "{error}");
        assert!(gate.vm.borrow().active.is_none());
    }
}
