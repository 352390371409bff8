//! A large policy, always the same: the default one, and as many routes and roles more as one asks for.

use std::fmt::Write as _;

use authoring::Files;

/// Files of routes are as long as people would make them.
const ROUTES_PER_FILE: usize = 500;
/// With those of the default policy, as many as a policy may have.
const PERMISSIONS: usize = 160;
const PERMISSIONS_PER_ROLE: usize = 24;

/// Which of several large policies: they differ in every route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Large {
    /// How many routes more.
    pub routes: usize,
    /// How many roles more.
    pub roles: usize,
    /// Part of every path and name.
    pub generation: u32,
}

impl Large {
    /// Adds to a policy that starts with `policy.yaml`.
    #[must_use]
    pub fn added_to(self, mut files: Files) -> Files {
        if let Some(root) = files.get_mut(wire::sources::ROOT) {
            root.push_str("  - large/*.yaml\n");
        }
        files.insert("large/permissions.yaml".into(), Self::permissions());
        files.insert("large/roles.yaml".into(), self.role_texts());
        for (number, first) in (0..self.routes).step_by(ROUTES_PER_FILE).enumerate() {
            let last = self.routes.min(first.saturating_add(ROUTES_PER_FILE));
            let routes: String = (first..last).map(|route| self.route(route)).collect();
            files.insert(format!("large/routes-{number:02}.yaml"), format!("routes:\n{routes}"));
        }
        files
    }

    /// The path of a route that asks for no token, and is in this policy only.
    #[must_use]
    pub fn public_path(self) -> String {
        format!("/large/v{}/public", self.generation)
    }

    fn permissions() -> String {
        (0..PERMISSIONS).fold("permissions:\n".to_owned(), |mut text, permission| {
            // Writing to a text does not fail.
            let _written = writeln!(text, "  - large_{permission:03}.use");
            text
        })
    }

    fn role_texts(self) -> String {
        (0..self.roles).fold("roles:\n".to_owned(), |mut text, role| {
            let permissions: Vec<String> = (0..PERMISSIONS_PER_ROLE)
                .map(|number| format!("large_{:03}.use", role.wrapping_mul(7).wrapping_add(number * 6) % PERMISSIONS))
                .collect();
            let _written = writeln!(text, "  - {{ name: large-role-{role:04}, permissions: [{}] }}", permissions.join(", "));
            text
        })
    }

    fn route(self, number: usize) -> String {
        let Self { generation, .. } = self;
        if number == 0 {
            let path = self.public_path();
            return format!("  - {{ name: large.public, gateways: [CP, PP, PLANT], methods: [GET], path: \"{path}\", require: public }}\n");
        }
        let (area, kind, permission) = (number / 40, number % 4, number % PERMISSIONS);
        let (verb, tail) = match kind {
            0 => ("GET, HEAD", ""),
            1 => ("GET, HEAD", "/{id}"),
            2 => ("POST", "/{id}/actions"),
            _ => ("PUT, PATCH", "/{id}"),
        };
        let item = number / 4;
        format!(
            "  - name: large.area-{area:03}.thing-{number:05}\n    gateways: [CP, PP, PLANT]\n    methods: [{verb}]\n    \
             path: \"/large/v{generation}/area-{area:03}/things-{item:05}{tail}\"\n    require: permission\n    \
             permission: large_{permission:03}.use\n    cost_micros: {}\n",
            (number % 5) * 100
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_a_policy_of_that_size() {
        let root = "include:\n";
        let files = Files::from([(wire::sources::ROOT.to_owned(), root.to_owned())]);
        let large = Large { routes: 1_001, roles: 10, generation: 3 };
        let document = wire::sources::read(&large.added_to(files)).unwrap();
        assert_eq!((document.routes.len(), document.roles.len(), document.permissions.len()), (1_001, 10, PERMISSIONS));
        assert!(document.routes.iter().any(|route| route.path == large.public_path()));
        decision_core_compiles(&document);
    }

    fn decision_core_compiles(document: &wire::policy::PolicyDocument) {
        let bundle = wire::bundle::Bundle {
            version: wire::bundle::BundleVersion::default(),
            policy: document.clone(),
            keys: vec![],
            registration_key_hashes: vec![],
            pseudonym_key: None,
            rules: None,
            shadow: None,
        };
        assert_eq!(bundle.load().unwrap().policy.routes().len(), 1_001);
    }
}
