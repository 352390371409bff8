//! How long a policy of 10,000 routes and 1,000 roles takes to read, to publish and to load, and how large it is:
//! `cargo run --release --package e2e --example large_policy`.

use std::error::Error;
use std::time::{Duration, Instant};

use cli::stack::repository;
use e2e::large::Large;
use wire::bundle::{Bundle, BundleVersion, IssuerKeys, KeysKnown, Loader};

fn main() -> Result<(), Box<dyn Error>> {
    let base = authoring::directory::read(&repository().join("policies"))?;
    for (name, large) in [("as shipped", None), ("10,000 routes, 1,000 roles", Some(Large { routes: 10_000, roles: 1_000, generation: 1 }))]
    {
        let files = large.map_or_else(|| base.clone(), |large| large.added_to(base.clone()));
        println!("{name}:");
        measure(&files)?;
    }
    Ok(())
}

fn measure(files: &authoring::Files) -> Result<(), Box<dyn Error>> {
    let (document, read) = timed(|| wire::sources::read(files));
    let mut policy = document?;
    // Keys are not what this is about.
    for issuer in &mut policy.issuers {
        issuer.keys.clear();
        issuer.algorithms = vec!["RS256".into()];
    }
    let keys = |issuer: &wire::policy::Issuer| IssuerKeys { issuer: issuer.name.clone(), keys: vec![], known: KeysKnown::NotYet };
    let keys = policy.issuers.iter().map(keys).collect();
    let bundle = Bundle {
        version: BundleVersion::default(),
        policy,
        keys,
        registration_key_hashes: vec![],
        pseudonym_key: None,
        rules: None,
        shadow: None,
    };
    let (image, encode) = timed(|| bundle.encode());
    let image = image?;
    let bytes = image.len();
    let mut loader = Loader::new(image)?;
    let (mut steps, mut longest, mut total) = (0_u32, Duration::ZERO, Duration::ZERO);
    let loaded = loop {
        let (done, step) = timed(|| loader.step());
        steps += 1;
        longest = longest.max(step);
        total += step;
        if let Some(loaded) = done? {
            break loaded;
        }
    };
    let routes = loaded.policy.routes().len();
    let ((), dropped) = timed(|| drop(loaded));
    println!("  {routes} routes; YAML read in {read:?}; image of {bytes} bytes made in {encode:?}");
    println!("  loaded in {total:?}: {steps} steps, the longest {longest:?}; dropped at once in {dropped:?}");
    Ok(())
}

fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let begun = Instant::now();
    let result = work();
    (result, begun.elapsed())
}
