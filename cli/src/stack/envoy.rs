//! Envoy: its configuration from the template, and a stop that lets requests finish.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::children::Launch;
use super::error::{FileContext, StackError};
use super::http::ask;
use super::part::{Part, Ports};
use super::run_dir::RunDir;

/// What goes into the template, besides ports.
#[derive(Debug)]
pub(crate) struct Settings<'a> {
    pub(crate) part: Part,
    pub(crate) id: &'a str,
    pub(crate) program: &'a Path,
    pub(crate) template: &'a Path,
    pub(crate) wasm: &'a Path,
    pub(crate) concurrency: u16,
    pub(crate) token: &'a str,
    pub(crate) ports: Ports,
    /// In a container, not as a process.
    pub(crate) container: bool,
}

/// Where Envoy listens, and where it finds the others.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hosts {
    pub(crate) bind: &'static str,
    pub(crate) envoy_admin: &'static str,
    pub(crate) backend: &'static str,
    pub(crate) control_plane: &'static str,
    /// `STATIC` for addresses, `STRICT_DNS` for names.
    pub(crate) cluster_type: &'static str,
}

/// The image that docker-compose.yml has, too.
const ENVOY_IMAGE: &str = "envoyproxy/envoy:v1.40.0";
const LOOPBACK: &str = "127.0.0.1";

impl Hosts {
    /// Everything on this machine, for nobody else.
    pub(crate) const LOCAL: Self =
        Self { bind: LOOPBACK, envoy_admin: LOOPBACK, backend: LOOPBACK, control_plane: LOOPBACK, cluster_type: "STATIC" };
}

/// Renders the configuration and says how to start Envoy with it.
pub(crate) fn launch(run_dir: &RunDir, settings: &Settings<'_>, log: PathBuf) -> Result<Launch, StackError> {
    let text =
        configuration(settings.template, Hosts::LOCAL, settings.ports, settings.id, settings.wasm, &access_log(run_dir, settings.part))?;
    let configuration = run_dir.join(&format!("{}.yaml", settings.part));
    std::fs::write(&configuration, text).or_file("write", &configuration)?;
    let mut arguments = vec!["-c".into(), configuration.into_os_string()];
    arguments.extend(["--concurrency".into(), settings.concurrency.to_string().into()]);
    // Several stacks may run beside each other; new connections are refused one second into a drain.
    arguments.extend(["--disable-hot-restart", "--drain-time-s", "1"].map(Into::into));
    arguments.extend(["--file-flush-interval-msec", "50", "--log-level", "info"].map(Into::into));
    let (program, container) = if settings.container {
        let container = container(settings.part, settings.ports);
        arguments = docker_run(&container, run_dir, settings, arguments);
        (PathBuf::from("docker"), Some(container))
    } else {
        (settings.program.to_owned(), None)
    };
    Ok(Launch {
        part: settings.part,
        program,
        arguments,
        container,
        environment: vec![("PLANT_DATA_PLANE_TOKEN".to_owned(), settings.token.to_owned())],
        account: None,
        directory: run_dir.path().to_owned(),
        log,
        lock: None,
        stop: Signal::SIGTERM,
        patience: Duration::from_secs(5),
    })
}

/// No two stacks have the same ports.
fn container(part: Part, ports: Ports) -> String {
    format!("plant-gateway-{part}-{}", ports.cp)
}

/// The same Envoy in the official image: on this machine's network, as us, with the files that it has as a process under the same paths.
fn docker_run(container: &str, run_dir: &RunDir, settings: &Settings<'_>, arguments: Vec<OsString>) -> Vec<OsString> {
    let image = std::env::var("ENVOY_IMAGE").unwrap_or_else(|_| ENVOY_IMAGE.to_owned());
    let mount = |path: &Path, access: &str| format!("{0}:{0}:{access}", path.display());
    let user = format!("{}:{}", nix::unistd::getuid(), nix::unistd::getgid());
    let options = [
        ["--name", container],
        ["--network", "host"],
        ["--user", &user],
        // Its value is taken from the environment: on the command line everybody could read it.
        ["--env", "PLANT_DATA_PLANE_TOKEN"],
        ["--volume", &mount(run_dir.path(), "rw")],
        ["--volume", &mount(settings.wasm, "ro")],
        ["--entrypoint", "envoy"],
    ];
    let options = options.into_iter().flatten().map(OsString::from);
    ["run", "--rm"].map(OsString::from).into_iter().chain(options).chain([image.into()]).chain(arguments).collect()
}

/// Each proxy writes its own: lines of two would run into each other.
pub(crate) fn access_log(run_dir: &RunDir, part: Part) -> PathBuf {
    run_dir.join(if part == Part::SecondEnvoy { "second-access.log" } else { "access.log" })
}

/// The template with everything in its place.
pub(crate) fn configuration(
    template: &Path,
    hosts: Hosts,
    ports: Ports,
    id: &str,
    wasm: &Path,
    access_log: &Path,
) -> Result<String, StackError> {
    let text = std::fs::read_to_string(template).or_file("read", template)?;
    let Ports { pp, cp, plant, backend, admin, data_plane, envoy_admin, postgres: _, valkey: _, sandbox } = ports;
    let variables = [
        ("BIND_ADDRESS", hosts.bind.to_owned()),
        ("CLUSTER_TYPE", hosts.cluster_type.to_owned()),
        ("CP_PORT", cp.to_string()),
        ("PP_PORT", pp.to_string()),
        ("PLANT_PORT", plant.to_string()),
        ("ENVOY_ADMIN_ADDRESS", hosts.envoy_admin.to_owned()),
        ("ENVOY_ADMIN_PORT", envoy_admin.to_string()),
        ("BACKEND_ADDRESS", hosts.backend.to_owned()),
        ("BACKEND_PORT", backend.to_string()),
        ("SANDBOX_ADDRESS", hosts.backend.to_owned()),
        ("SANDBOX_PORT", sandbox.to_string()),
        ("DATA_PLANE_ADDRESS", hosts.control_plane.to_owned()),
        ("DATA_PLANE_PORT", data_plane.to_string()),
        ("ADMIN_ADDRESS", hosts.control_plane.to_owned()),
        ("ADMIN_PORT", admin.to_string()),
        ("WASM_PATH", wasm.display().to_string()),
        ("ACCESS_LOG", access_log.display().to_string()),
        ("ENVOY_ID", id.to_owned()),
    ];
    render(template, &text, &variables)
}

/// Replaces `${NAME}` everywhere but in lines that are comments.
fn render(path: &Path, template: &str, variables: &[(&'static str, String)]) -> Result<String, StackError> {
    let mut text = String::with_capacity(template.len());
    for (index, line) in template.lines().enumerate() {
        let mut rest = line;
        while let Some((before, after)) = rest.split_once("${").filter(|_| !line.trim_start().starts_with('#')) {
            let (name, after) = after.split_once('}').unwrap_or((after, ""));
            let Some((_, value)) = variables.iter().find(|(known, _)| *known == name) else {
                return Err(StackError::Template { path: path.to_owned(), line: index.saturating_add(1), name: name.to_owned() });
            };
            if value.contains(['"', '\\', '\n', '\r', '$']) {
                return Err(StackError::TemplateValue { value: value.clone() });
            }
            text.push_str(before);
            text.push_str(value);
            rest = after;
        }
        text.push_str(rest);
        text.push('\n');
    }
    Ok(text)
}

/// Lets new connections go elsewhere and open requests finish, for a second at most.
pub(crate) fn drain(envoy_admin: u16) {
    let patience = Duration::from_millis(500);
    if ask("POST", envoy_admin, "/drain_listeners?graceful", patience).is_err() {
        return;
    }
    let deadline = Instant::now() + Duration::from_secs(1);
    while Instant::now() < deadline && requests_open(envoy_admin, patience) {
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn requests_open(envoy_admin: u16, patience: Duration) -> bool {
    let path = "/stats?filter=^http\\.(cp|pp|plant)\\.downstream_rq_active$";
    ask("GET", envoy_admin, path, patience)
        .is_ok_and(|answer| answer.body.lines().any(|line| line.contains("downstream_rq_active") && !line.ends_with(": 0")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn try_render(template: &str) -> Result<String, String> {
        let variables = [("PORT", "1".to_owned()), ("PATH", "a\"b".to_owned())];
        render(Path::new("t.yaml"), template, &variables).map_err(|error| error.to_string())
    }

    #[test]
    fn replaces_names_outside_comments() {
        let text = try_render("# ${NAME} is replaced\nport: ${PORT}${PORT} # ${PORT}\n").unwrap();
        assert_eq!(text, "# ${NAME} is replaced\nport: 11 # 1\n");
    }

    #[test]
    fn refuses_names_that_it_does_not_know() {
        assert_eq!(try_render("a\nb: ${PROT}").unwrap_err(), "`t.yaml` line 2: there is no variable `PROT`");
        assert_eq!(try_render("b: ${PORT").unwrap(), "b: 1\n");
    }

    #[test]
    fn refuses_values_that_would_leave_their_quotes() {
        assert!(try_render("b: \"${PATH}\"").unwrap_err().contains("cannot be written into the configuration"));
    }

    #[test]
    fn knows_every_variable_of_the_shipped_template() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../envoy/bootstrap.yaml");
        let home = tempfile::tempdir().unwrap();
        let run_dir = RunDir::claim(home.path()).unwrap();
        let settings = Settings {
            part: Part::Envoy,
            id: "envoy-1",
            program: Path::new("envoy"),
            template: &path,
            wasm: Path::new("/filter.wasm"),
            concurrency: 1,
            token: "t",
            ports: Ports::above(20_000).unwrap(),
            container: false,
        };
        let launch = launch(&run_dir, &settings, home.path().join("envoy.log")).unwrap();
        assert_eq!(launch.arguments[2..4], ["--concurrency", "1"]);
        let text = std::fs::read_to_string(home.path().join("envoy.yaml")).unwrap();
        let body: Vec<_> = text.lines().filter(|line| !line.trim_start().starts_with('#')).collect();
        assert!(!body.join("\n").contains("${"));
    }
}
