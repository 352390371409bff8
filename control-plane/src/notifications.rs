//! One connection to Postgres that listens, for everything in this process that follows what other replicas commit.

use crate::app::AppState;
use crate::policies::follow as policies;
use crate::revocations::follow as revocations;
use crate::{budgets::caps, keys, policies::store, revocations as revoked};
use decision_core::causes::chain;
use sqlx::PgPool;
use sqlx::postgres::PgListener;
use std::time::Duration;
use tokio::sync::Notify;

/// How long after a failure the listener tries again; polling goes on alone meanwhile.
const PAUSE: Duration = Duration::from_secs(1);

/// Whom a notification wakes.
#[derive(Debug, Default)]
struct Bells {
    policies: Notify,
    key_fetches: Notify,
    revocations: Notify,
    caps: Notify,
}

impl Bells {
    fn ring(&self, channel: &str) {
        match channel {
            store::CHANNEL | keys::CHANNEL_CHANGED => self.policies.notify_one(),
            keys::CHANNEL_DUE => self.key_fetches.notify_one(),
            revoked::CHANNEL => self.revocations.notify_one(),
            caps::CHANNEL => self.caps.notify_one(),
            _ => self.ring_all(),
        }
    }

    fn ring_all(&self) {
        [&self.policies, &self.key_fetches, &self.revocations, &self.caps].into_iter().for_each(Notify::notify_one);
    }
}

/// Follows activations, secrets, key sets, revocations and caps until the process is asked to stop.
pub async fn follow(state: AppState) {
    let bells = Bells::default();
    tokio::select! {
        () = state.shutdown.cancelled() => {}
        () = listen(&state.database, &bells) => {}
        () = policies::run(&state, &bells.policies) => {}
        () = keys::fetch::run(&state, &bells.key_fetches) => {}
        () = revocations::run(&state, &bells.revocations) => {}
        () = caps::follow::run(&state, &bells.caps) => {}
    }
}

/// Reconnects by itself; while it cannot, everybody polls.
async fn listen(database: &PgPool, bells: &Bells) {
    loop {
        if let Err(error) = listen_once(database, bells).await {
            tracing::warn!(error = %chain(&error), "not listening for changes; polling goes on");
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn listen_once(database: &PgPool, bells: &Bells) -> Result<(), sqlx::Error> {
    let mut listener = PgListener::connect_with(database).await?;
    listener.listen_all([store::CHANNEL, keys::CHANNEL_CHANGED, keys::CHANNEL_DUE, revoked::CHANNEL, caps::CHANNEL]).await?;
    loop {
        match listener.try_recv().await? {
            Some(notification) => bells.ring(notification.channel()),
            // The connection was lost and comes back with the next call; look whether something was missed.
            None => bells.ring_all(),
        }
    }
}
