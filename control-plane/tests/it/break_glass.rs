//! The way back past the admin API: audited, and never to a lower number.

use crate::support::World;
use control_plane::break_glass::{BreakGlassError, roll_back};
use control_plane::policies::{Activation, Revision};
use serde_json::json;
use sqlx::PgPool;

#[sqlx::test(migrations = "../migrations")]
async fn an_earlier_revision_is_put_in_force_under_a_higher_number_and_recorded(database: PgPool) {
    let world = World::new(database.clone()).await;
    let mut connection = database.acquire().await.unwrap();
    assert!(matches!(roll_back(&mut connection, None, "lost").await, Err(BreakGlassError::Nothing)));
    let published = world.post("/admin/v1/policies", &json!({ "files": world.files(), "reason": "a test" })).await.json();
    let second = published["revision"].as_i64().unwrap();
    world.post(&format!("/admin/v1/policies/{second}/activation"), &json!({ "reason": "a test" })).await;

    let done = roll_back(&mut connection, None, "nobody can sign in").await.unwrap();
    assert_eq!((done.activation, done.revision), (Activation(3), Revision(1)));
    let (action, target, reason, issuer): (String, String, String, String) =
        sqlx::query_as("SELECT action, target, reason, actor_issuer FROM admin_events ORDER BY id DESC LIMIT 1")
            .fetch_one(&database)
            .await
            .unwrap();
    assert!(action.starts_with("policy."), "{action}");
    assert_eq!((target.as_str(), reason.as_str(), issuer.as_str()), ("1", "nobody can sign in", "database"));

    let named = roll_back(&mut connection, Some(Revision(second)), "it was right").await.unwrap();
    assert_eq!((named.activation, named.revision), (Activation(4), Revision(second)));
    assert!(matches!(roll_back(&mut connection, Some(Revision(99)), "x").await, Err(BreakGlassError::NoRevision(Revision(99)))));
    let (count,): (i64,) = sqlx::query_as("SELECT count(*) FROM policy_activations").fetch_one(&database).await.unwrap();
    assert_eq!(count, 4, "what is refused changes nothing");
}
