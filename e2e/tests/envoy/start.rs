//! What a stack that cannot start says, and how to get out of it.

use std::fs::Permissions;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use cli::stack::{Stack, repository};
use e2e::stacks::{options, ports, told};

#[test]
fn a_port_in_use_is_named_with_the_way_to_shift_it() {
    let taken = ports::START + 15;
    let _occupied = TcpListener::bind(("127.0.0.1", taken)).unwrap();
    let error = told(&Stack::start(options("start-port", ports::START).unwrap()).unwrap_err());
    assert!(error.contains(&format!("port {taken} (gateway CP) is already in use")), "{error}");
    assert!(error.contains("PORT_BASE=20000"), "{error}");
}

#[test]
fn a_filter_that_was_not_built_is_named_with_the_command_that_builds_it() {
    let home = tempfile::tempdir().unwrap();
    let mut options = options("start-wasm", ports::START).unwrap();
    options.wasm = Some(home.path().join("plant_gateway.wasm"));
    let error = told(&Stack::start(options).unwrap_err());
    assert!(error.contains("plant_gateway.wasm` is missing") && error.contains("make build"), "{error}");
}

#[test]
fn a_missing_rust_target_is_named_with_the_command_that_installs_it() {
    let home = tempfile::tempdir().unwrap();
    let rustc = "#!/bin/sh\necho /nonexistent\n";
    for (program, script) in [("rustc", rustc), ("rustup", "#!/bin/sh\nexit 1\n"), ("cargo", "#!/bin/sh\n"), ("python3", "#!/bin/sh\n")] {
        let path = home.path().join(program);
        std::fs::write(&path, script).unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
    }
    let path = format!("{}:/usr/bin:/bin", home.path().display());
    let output = Command::new("make").arg("need").current_dir(repository()).env("PATH", path).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{said}");
    assert!(said.contains("rustup target add wasm32-wasip1"), "{said}");
}
