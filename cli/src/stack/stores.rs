//! Postgres and Valkey alone, for the tests of the stores.

use std::sync::atomic::AtomicBool;

use super::{Options, Plan, RunDir, Running, Secrets, StackError, Supervisor};

/// The two stores, running. Dropping them stops them.
#[derive(Debug)]
pub struct Stores {
    running: Running,
    database_url: String,
    redis_url: String,
}

impl Stores {
    /// Starts both and waits until they answer. A store that the options name is used as it is.
    ///
    /// # Errors
    /// As [`Stack::start`](super::Stack::start).
    pub fn start(options: Options) -> Result<Self, StackError> {
        let mut plan = Plan::make(options)?;
        let run_dir = RunDir::claim(&plan.options.run_dir)?;
        plan.options.run_dir = run_dir.path().to_owned();
        let supervisor = Supervisor::start(run_dir, plan.options.quiet);
        let mut running = Running { supervisor, ports: plan.ports, second: plan.second, keep_logs: true, stopped: false };
        plan.ports.check_free(&plan.unused_ports())?;
        let tools = plan.tools()?;
        let secrets = Secrets::make(&plan.options.run_dir)?;
        let postgres = plan.prepare_postgres(&running, &tools, &secrets)?;
        plan.launch_stores(&running, postgres, &tools, &secrets, &AtomicBool::new(false))?;
        running.keep_logs = plan.options.keep_logs;
        Ok(Self { database_url: plan.database_admin_url(&secrets), redis_url: plan.redis_url(&secrets), running })
    }

    /// Where Postgres is; the user may create databases.
    #[must_use]
    pub fn database_url(&self) -> &str {
        &self.database_url
    }

    /// Where Valkey is.
    #[must_use]
    pub fn redis_url(&self) -> &str {
        &self.redis_url
    }

    /// Stops both and removes their data.
    pub fn stop(mut self) {
        self.running.stop();
    }
}
