//! What the gateway that such policies were written for made of a request: a resource and an action, by path and method.

const PREFIX: &str = "/api/v1/";
/// Words below an agent that were actions, for permissions.
const AGENT_ACTIONS: [&str; 4] = ["pause", "resume", "restart", "logs"];
/// And for everything else.
const AGENT_POLICY_ACTIONS: [&str; 3] = ["pause", "resume", "delete"];

/// What was asked for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Wanted {
    pub(crate) resource: String,
    pub(crate) action: String,
}

impl Wanted {
    fn new(resource: &str, action: impl Into<String>) -> Self {
        Self { resource: resource.into(), action: action.into() }
    }

    /// As a permission says it.
    pub(crate) fn of_permission(permission: &str) -> Self {
        let (resource, action) = permission.split_once('.').unwrap_or((permission, ""));
        Self::new(resource, action)
    }

    /// As it was asked whether roles permit a request.
    pub(crate) fn for_permission(method: &str, path: &str) -> Self {
        let segments = segments(path);
        let resource = segments.first().copied().unwrap_or("unknown");
        match (resource, segments.get(2)) {
            ("deployments", _) if method == "POST" => Self::new(resource, "deploy"),
            ("agents", Some(word)) if AGENT_ACTIONS.contains(word) => Self::new(resource, *word),
            _ => Self::new(resource, plain_action(method)),
        }
    }

    /// As it was asked for everything else.
    pub(crate) fn for_policy(method: &str, path: &str) -> Self {
        let segments = segments(path);
        let resource = segments.first().copied().unwrap_or("unknown");
        let changes = matches!(method, "PUT" | "PATCH");
        match (resource, segments.get(2)) {
            ("agents", None) if method == "DELETE" && segments.len() == 2 => Self::new(resource, "delete_agent"),
            ("agents", Some(below)) if method == "DELETE" => Self::new(below, "delete"),
            ("agents", Some(word)) if AGENT_POLICY_ACTIONS.contains(word) => Self::new(resource, format!("{word}_agent")),
            ("billing", _) if changes => Self::new(resource, "update_billing"),
            ("subscription", _) if changes => Self::new(resource, "change_subscription"),
            ("data", _) if path.contains("export") => Self::new(resource, "export_data"),
            ("customers", _) if method == "DELETE" => Self::new(resource, "delete_customer"),
            _ => Self::new(resource, plain_action(method)),
        }
    }
}

/// Whether that gateway had the method at all.
pub(crate) fn is_known_method(method: &str) -> bool {
    plain_action(method) != "unknown"
}

fn plain_action(method: &str) -> &'static str {
    match method {
        "GET" => "read",
        "POST" => "create",
        "PUT" | "PATCH" => "update",
        "DELETE" => "delete",
        _ => "unknown",
    }
}

fn segments(path: &str) -> Vec<&str> {
    let path = path.split_once('?').map_or(path, |(path, _query)| path);
    let below = path.strip_prefix(PREFIX).unwrap_or(path);
    below.split('/').filter(|segment| !segment.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_were_asked_about_these_words() {
        for (request, resource, action) in [
            ("GET /api/v1/agents?page=2", "agents", "read"),
            ("POST /api/v1/agents", "agents", "create"),
            ("PATCH /api/v1/agents/a-1", "agents", "update"),
            ("DELETE /api/v1/agents/a-1", "agents", "delete"),
            ("POST /api/v1/agents/a-1/pause", "agents", "pause"),
            ("GET /api/v1/agents/a-1/logs", "agents", "logs"),
            ("POST /api/v1/agents/a-1/execute", "agents", "create"),
            ("POST /api/v1/deployments", "deployments", "deploy"),
            ("GET /api/v1/deployments", "deployments", "read"),
            ("HEAD /api/v1/agents", "agents", "unknown"),
            ("GET /api/agents", "api", "read"),
            ("GET /", "unknown", "read"),
        ] {
            let (method, path) = request.split_once(' ').unwrap();
            assert_eq!(Wanted::for_permission(method, path), Wanted::new(resource, action), "{request}");
        }
    }

    #[test]
    fn the_other_policies_were_asked_about_these() {
        for (request, resource, action) in [
            ("DELETE /api/v1/agents/a-1", "agents", "delete_agent"),
            ("DELETE /api/v1/agents/a-1/skills/s-1", "skills", "delete"),
            ("POST /api/v1/agents/a-1/pause", "agents", "pause_agent"),
            ("POST /api/v1/agents/a-1/restart", "agents", "create"),
            ("PUT /api/v1/billing", "billing", "update_billing"),
            ("GET /api/v1/billing", "billing", "read"),
            ("PATCH /api/v1/subscription/s-1", "subscription", "change_subscription"),
            ("PATCH /api/v1/subscriptions/s-1", "subscriptions", "update"),
            ("POST /api/v1/data/export", "data", "export_data"),
            ("DELETE /api/v1/customers/c-1", "customers", "delete_customer"),
            ("POST /api/v1/deployments", "deployments", "create"),
        ] {
            let (method, path) = request.split_once(' ').unwrap();
            assert_eq!(Wanted::for_policy(method, path), Wanted::new(resource, action), "{request}");
        }
    }

    #[test]
    fn a_permission_is_a_resource_and_an_action() {
        assert_eq!(Wanted::of_permission("agent.create"), Wanted::new("agent", "create"));
        assert!(is_known_method("PATCH") && !is_known_method("HEAD") && !is_known_method("OPTIONS"));
    }
}
