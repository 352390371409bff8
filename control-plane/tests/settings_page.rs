//! `docs/running.md` lists the settings of the control plane as they are.
#![expect(clippy::panic, reason = "a test that cannot go on has failed")]

#[path = "../../docs/generated.rs"]
mod generated;
#[path = "../../docs/settings.rs"]
mod settings;

use clap::CommandFactory as _;
use control_plane::outbound::target::{AllowedHosts, AllowedNetworks};
use control_plane::public_url::PublicUrl;
use control_plane::settings::{Sensitive, Settings};
use std::any::TypeId;
use std::net::SocketAddr;
use std::path::PathBuf;

#[test]
fn the_page_has_every_setting() {
    let words = [
        (TypeId::of::<SocketAddr>(), "address and port"),
        (TypeId::of::<PathBuf>(), "path"),
        (TypeId::of::<Sensitive>(), "URL; never printed"),
        (TypeId::of::<PublicUrl>(), "URL"),
        (TypeId::of::<AllowedHosts>(), "list of hosts"),
        (TypeId::of::<AllowedNetworks>(), "list of networks"),
        (TypeId::of::<String>(), "text"),
        (TypeId::of::<i32>(), "number"),
        (TypeId::of::<u32>(), "number"),
        (TypeId::of::<u64>(), "number"),
    ];
    let table = settings::table(&Settings::command(), &words);
    assert!(table.lines().count() > 20);
    generated::check("running.md", "control-plane settings", &table, "cargo test --package control-plane --test settings_page");
}
