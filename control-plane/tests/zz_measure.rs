//! temporary
mod plane;
use plane::{Holder, state};
#[sqlx::test(migrations = "../migrations")]
async fn measure(pool: sqlx::PgPool) {
    let state = state(&pool, 1_000_000_000).await;
    for (name, budget, n) in [("empty", "daily", 0_usize), ("1 durable", "daily", 1), ("10 durable", "daily", 10), ("100 durable", "daily", 100), ("1 volatile", "hourly", 1), ("100 volatile", "hourly", 100)] {
        let mut holder = Holder::new(&state).await;
        let scopes: Vec<String> = (0..n).map(|i| format!("{name}{i}-{}", uuid::Uuid::now_v7())).collect();
        let mut times = vec![];
        for round in 0..200_i64 {
            let wants = scopes.iter().map(|s| holder.want(budget, s, round, round + 5, round + 1)).collect();
            let request = holder.request(wants);
            let at = std::time::Instant::now();
            holder.send(&request).await.unwrap();
            times.push(at.elapsed().as_micros());
        }
        times.sort();
        println!("{name}: p50 {} us, p99 {} us", times[100], times[197]);
    }
    let at = std::time::Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let mut holder = Holder::new(&state).await;
        tasks.spawn(async move { for round in 0..100 { let w = holder.want("daily", "one", round, round + 5, round + 1); let r = holder.request(vec![w]); holder.send(&r).await.unwrap(); } });
    }
    tasks.join_all().await;
    println!("one hot account, 8 holders: {:.0} calls/s", 800.0 / at.elapsed().as_secs_f64());
}
