//! The gate of publishing. What others send is read and examined in a process of its own, with a time-out and a memory limit:
//! the YAML reader takes quadratic time on deep nesting, the interpreter cannot be stopped inside a builtin, and a stack that
//! overflows ends the process that it is in.

use super::turns::Turns;
use super::{RuleFiles, TestRun, Unreached};
use crate::opa::examine::{self, Asked, Examined};
use crate::oracle::Golden;
use crate::{Files, PolicyFault};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};
use std::io::{self, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use wire::bundle::{RuleVector, RulesImage};

/// The hidden subcommand that answers, in both programs.
pub const SUBCOMMAND: &str = "rules-gate";

/// In all, from the start of the process to its answer.
const WALL_MAX: Duration = Duration::from_millis(4_500);
const CPU_SECONDS_MAX: u64 = 4;
const MEMORY_BYTES_MAX: u64 = 768 * 1_024 * 1_024;
/// A filter's stack is 1 MiB: what does not fit here would not fit there.
const STACK_BYTES: usize = 1_024 * 1_024;
/// All files of a policy.
const SOURCES_BYTES_MAX: usize = 16 * 1_024 * 1_024;
const ANSWER_BYTES_MAX: u64 = 16 * 1_024 * 1_024;
/// What a process says that dies.
const CRY_BYTES_MAX: u64 = 64 * 1_024;

/// How many are examined at once, and how long others wait for their turn: an answer is due in 30 s, and a policy is examined
/// twice, for 5 s at most.
static TURNS: Turns = Turns::new(2);
const PATIENCE: Duration = Duration::from_secs(8);

static CHILD: AtomicBool = AtomicBool::new(false);

/// What the gate found in rules.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GateReport {
    /// Inputs with the decisions that the rules make of them, both JSON objects. None when a test did not pass.
    pub vectors: Vec<(String, String)>,
    /// The tests that were run.
    pub tests: Vec<TestRun>,
    /// How many bodies the rules have, defaults apart.
    pub bodies: usize,
    /// Those that no test came to the end of.
    pub unreached: Vec<Unreached>,
}

impl GateReport {
    /// Rules pass when all their tests do.
    ///
    /// # Errors
    /// The first test that did not pass, with its place.
    pub fn passed(self) -> Result<Self, PolicyFault> {
        match self.tests.iter().find_map(TestRun::fault) {
            Some(fault) => Err(fault),
            None => Ok(self),
        }
    }

    /// What a bundle carries.
    ///
    /// # Errors
    /// The data cannot be read.
    pub fn image(self, rules: &RuleFiles) -> Result<RulesImage, PolicyFault> {
        let vectors = self.vectors.into_iter().map(|(input, decision)| RuleVector { input, decision }).collect();
        Ok(RulesImage { modules: rules.modules.clone(), data: rules.data_json()?, inputs: rules.inputs.clone(), vectors })
    }
}

/// A fault on its way from the child.
#[derive(Serialize, Deserialize)]
struct SentFault {
    file: Option<String>,
    line: Option<usize>,
    field: Option<String>,
    message: String,
}

#[derive(Deserialize)]
struct Doing {
    doing: String,
    file: String,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Answer {
    Read,
    Tested(GateReport),
    Examined(Examined),
    Refused(SentFault),
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Question {
    Sources(Files),
    Cases(Files),
    Rules(RuleFiles),
    Opa(Asked),
}

/// The program that examines what is published when it is started with [`SUBCOMMAND`].
#[derive(Clone, Debug)]
pub struct Gate {
    program: PathBuf,
}

impl Gate {
    /// Another program than this one.
    #[must_use]
    pub fn new(program: PathBuf) -> Self {
        Self { program }
    }

    /// This program.
    ///
    /// # Errors
    /// The system does not tell where it is.
    pub fn this_program() -> io::Result<Self> {
        std::env::current_exe().map(Self::new)
    }

    /// Whether sources can be read in reasonable time; only then does the caller read them itself. Blocks, for 5 s at most.
    ///
    /// # Errors
    /// The first thing that is wrong with them, with its place.
    pub fn read(&self, files: &Files) -> Result<(), PolicyFault> {
        self.reads(files, Question::Sources)
    }

    /// The same for golden cases and the list of chosen differences.
    ///
    /// # Errors
    /// The first thing that is wrong with them, with its place.
    pub fn read_cases(&self, files: &Files) -> Result<(), PolicyFault> {
        self.reads(files, Question::Cases)
    }

    fn reads(&self, files: &Files, question: fn(Files) -> Question) -> Result<(), PolicyFault> {
        let bytes = files.values().map(String::len).fold(0_usize, usize::saturating_add);
        if bytes > SOURCES_BYTES_MAX {
            let message = format!("the files have {bytes} bytes; at most {SOURCES_BYTES_MAX} are allowed");
            let largest = files.iter().max_by_key(|(_, text)| text.len()).map(|(file, _)| file.clone());
            return Err(PolicyFault { file: largest, message, ..PolicyFault::default() });
        }
        match self.ask(&question(files.clone()))? {
            Answer::Read => Ok(()),
            Answer::Tested(_) | Answer::Examined(_) | Answer::Refused(_) => Err(misunderstood()),
        }
    }

    /// Examines rules in a process of its own, and tells all tests that do not pass. Blocks, for 5 s at most: call it off the
    /// async threads.
    ///
    /// # Errors
    /// The first thing that is wrong with the rules other than a test, with its place.
    pub fn run(&self, rules: &RuleFiles) -> Result<GateReport, PolicyFault> {
        rules.check_texts()?;
        match self.ask(&Question::Rules(rules.clone()))? {
            Answer::Tested(report) => Ok(report),
            Answer::Read | Answer::Examined(_) | Answer::Refused(_) => Err(misunderstood()),
        }
    }

    /// Loads policies that were written for an OPA server, and asks them, in a process of its own. Blocks, for 5 s at most.
    pub(crate) fn ask_opa(&self, asked: Asked) -> Result<Examined, PolicyFault> {
        asked.check_texts()?;
        match self.ask(&Question::Opa(asked))? {
            Answer::Examined(examined) => Ok(examined),
            Answer::Read | Answer::Tested(_) | Answer::Refused(_) => Err(misunderstood()),
        }
    }

    fn ask(&self, question: &Question) -> Result<Answer, PolicyFault> {
        let unable = |what: &str, error: &dyn std::error::Error| PolicyFault {
            message: format!("rules: the gate `{} {SUBCOMMAND}` {what}: {error}", self.program.display()),
            ..PolicyFault::default()
        };
        let text = serde_json::to_vec(question).map_err(|error| unable("cannot be asked", &error))?;
        let Some(_turn) = TURNS.wait(PATIENCE) else {
            let message = format!("too many policies are being examined; none was ready within {} s, try again", PATIENCE.as_secs());
            return Err(PolicyFault { message, busy: true, ..PolicyFault::default() });
        };
        let mut child = self.start().map_err(|error| unable("cannot be started", &error))?;
        let asked = child.stdin.take().map(|mut stdin| {
            // A child that ended early closes its end, and its answer or its end says why.
            thread::spawn(move || stdin.write_all(&text).unwrap_or(()))
        });
        let answered = child.stdout.take().map(|stdout| thread::spawn(move || read_all(stdout, ANSWER_BYTES_MAX)));
        let cried = child.stderr.take().map(|stderr| thread::spawn(move || read_all(stderr, CRY_BYTES_MAX)));
        let ended = wait(&mut child).map_err(|error| unable("cannot be waited for", &error))?;
        let whole = |reader: Option<thread::JoinHandle<Vec<u8>>>| reader.and_then(|reader| reader.join().ok()).unwrap_or_default();
        let (answer, cry) = (whole(answered), whole(cried));
        drop(asked.map(thread::JoinHandle::join));
        read_answer(&answer, ended, &cry, question)
    }

    fn start(&self) -> io::Result<Child> {
        // No secret of ours is in its environment.
        let mut command = Command::new(&self.program);
        command.arg(SUBCOMMAND).env_clear().stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn()
    }
}

/// How the child ended.
#[derive(Clone, Copy)]
enum Ended {
    Itself(ExitStatus),
    TooLate,
}

fn wait(child: &mut Child) -> io::Result<Ended> {
    let begun = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Ended::Itself(status));
        }
        if begun.elapsed() >= WALL_MAX {
            child.kill()?;
            child.wait()?;
            return Ok(Ended::TooLate);
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// The child is another version of this program.
fn misunderstood() -> PolicyFault {
    PolicyFault { message: "rules: the gate answers something else than it was asked".into(), ..PolicyFault::default() }
}

fn read_all(from: impl Read, bytes_max: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    from.take(bytes_max).read_to_end(&mut bytes).map(|_| bytes).unwrap_or_default()
}

/// Which limit a child has met, as the runtime or the system says it.
fn limit_met(ended: Ended, cry: &[u8]) -> String {
    let said = |words: &str| cry.windows(words.len()).any(|window| window == words.as_bytes());
    match ended {
        Ended::TooLate => format!("took longer than {} s", WALL_MAX.as_secs_f32()),
        Ended::Itself(_) if said("has overflowed its stack") => {
            format!("needed more than {} KiB of stack: something is nested too deeply", STACK_BYTES / 1_024)
        }
        Ended::Itself(_) if said("memory allocation of") => format!("needed more than {} MiB of memory", MEMORY_BYTES_MAX / 1_024 / 1_024),
        Ended::Itself(status)
            if status.signal().is_some_and(|signal| signal == Signal::SIGXCPU as i32 || signal == Signal::SIGKILL as i32) =>
        {
            format!("was stopped: more than {CPU_SECONDS_MAX} s of processor time, or no memory was left")
        }
        Ended::Itself(status) => format!("ended the gate ({status})"),
    }
}

fn read_answer(answer: &[u8], ended: Ended, cry: &[u8], question: &Question) -> Result<Answer, PolicyFault> {
    let lines = || answer.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    if let (Ended::Itself(_), Some(Ok(answer))) = (ended, lines().next_back().map(serde_json::from_slice)) {
        return match answer {
            Answer::Refused(SentFault { file, line, field, message }) => {
                Err(PolicyFault { file, line, field, message, ..PolicyFault::default() })
            }
            answer @ (Answer::Read | Answer::Tested(_) | Answer::Examined(_)) => Ok(answer),
        };
    }
    let doing: Option<Doing> = lines().rev().find_map(|line| serde_json::from_slice(line).ok());
    let at = doing.as_ref().map_or_else(String::new, |doing| format!("{}: ", doing.doing));
    let named = doing.map(|doing| doing.file).filter(|file| !file.is_empty());
    let (what, first) = match question {
        Question::Sources(files) => ("the sources", files.keys().next()),
        Question::Cases(files) => ("the cases", files.keys().next()),
        Question::Rules(rules) => ("the rules", rules.modules.first().map(|(file, _)| file)),
        Question::Opa(asked) => ("the policies", asked.modules.keys().next()),
    };
    let what = if at.is_empty() { format!("{what} ") } else { format!("{at}it ") };
    Err(PolicyFault {
        file: named.or_else(|| first.cloned()),
        line: None,
        field: None,
        message: format!("{what}{}", limit_met(ended, cry)),
        ..PolicyFault::default()
    })
}

/// Whether this process is a gate.
pub(super) fn is_child() -> bool {
    CHILD.load(Ordering::Relaxed)
}

/// The subcommand: rules as JSON from the standard input, the answer as JSON to the standard output.
#[must_use]
pub fn serve() -> ExitCode {
    if let Err(error) = limit() {
        return answer(&refused(PolicyFault {
            message: format!("rules: the gate's limits cannot be set: {error}"),
            ..PolicyFault::default()
        }));
    }
    CHILD.store(true, Ordering::Relaxed);
    let mut question = Vec::new();
    let read = io::stdin().lock().read_to_end(&mut question).map_err(|error| error.to_string());
    let question = read.and_then(|_| serde_json::from_slice::<Question>(&question).map_err(|error| error.to_string()));
    let question = match question {
        Ok(question) => question,
        Err(error) => {
            return answer(&refused(PolicyFault {
                message: format!("rules: the gate does not understand: {error}"),
                ..PolicyFault::default()
            }));
        }
    };
    let examined = thread::Builder::new().stack_size(STACK_BYTES).spawn(move || examine(question));
    let examined = examined.ok().and_then(|examined| examined.join().ok());
    let fault = || PolicyFault { message: "rules: the interpreter failed on them".into(), ..PolicyFault::default() };
    answer(&examined.unwrap_or_else(|| Err(fault())).unwrap_or_else(refused))
}

fn examine(question: Question) -> Result<Answer, PolicyFault> {
    match question {
        Question::Sources(files) => read(&files).map(|()| Answer::Read),
        Question::Cases(files) => Golden::read(&files).map(|_golden| Answer::Read),
        Question::Rules(rules) => rules.examine().map(Answer::Tested),
        Question::Opa(asked) => examine::examine(&asked).map(Answer::Examined),
    }
}

fn read(files: &Files) -> Result<(), PolicyFault> {
    for (file, text) in files.iter().filter(|(file, _)| !file.ends_with(".rego")) {
        super::progress("reading", file);
        let located = |error| PolicyFault::of_source(&error, files);
        wire::sources::bounded(file, text).map_err(located)?;
        // What it is is said below; here only whether it can be read, so that a file which cannot is named.
        if !file.ends_with(".json") {
            drop(serde_norway::from_str::<serde::de::IgnoredAny>(text));
        }
    }
    super::progress("reading", "");
    let document = wire::sources::read(files).map_err(|error| PolicyFault::of_source(&error, files))?;
    if let Some(rules) = super::gather(&document, files)? {
        drop(rules.data_json()?);
    }
    Ok(())
}

fn refused(PolicyFault { file, line, field, message, busy: _ }: PolicyFault) -> Answer {
    Answer::Refused(SentFault { file, line, field, message })
}

fn answer(answer: &Answer) -> ExitCode {
    let written = serde_json::to_vec(answer).map_err(io::Error::other).and_then(|mut line| {
        line.push(b'\n');
        io::stdout().lock().write_all(&line)
    });
    if written.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn limit() -> nix::Result<()> {
    setrlimit(Resource::RLIMIT_CPU, CPU_SECONDS_MAX, CPU_SECONDS_MAX)?;
    setrlimit(Resource::RLIMIT_AS, MEMORY_BYTES_MAX, MEMORY_BYTES_MAX)?;
    // What is dumped of a process that ran out of stack helps nobody.
    setrlimit(Resource::RLIMIT_CORE, 0, 0)
}
