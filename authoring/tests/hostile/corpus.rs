//! The corpus. What is large is made here, so that it need not lie in the repository.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use authoring::Files;
use std::fmt::Write as _;

/// A bundle, and what has to be said of it.
pub(crate) struct Entry {
    pub(crate) name: &'static str,
    pub(crate) files: Files,
    pub(crate) file: Option<&'static str>,
    pub(crate) line: Option<usize>,
    pub(crate) says: &'static str,
}

const MODULE: &str = "rules/main.rego";
const DEFAULT: &str = "default decision := {\"allow\": false, \"rule\": \"default\"}\n";

/// A policy of one route with rules: `yaml` replaces its `rules:`.
fn policy(yaml: &str) -> String {
    format!(
        "permissions: [agent.read]\nroles: [{{name: viewer, permissions: [agent.read]}}]\nroutes:\n  - \
         {{name: agents.read, gateways: [PP], methods: [GET], path: '/agents/{{id}}', require: permission, permission: agent.read, cost_micros: 0}}\n{yaml}\n"
    )
}

const RULES: &str = "rules:\n  modules: [rules/main.rego]\n  inputs: [jwt.roles, path]\n  gateways: [PP]";

fn files(files: &[(&str, String)]) -> Files {
    files.iter().map(|(name, text)| ((*name).to_owned(), text.clone())).collect()
}

/// A rule module; the body begins in line 5.
pub(crate) fn module(body: &str) -> Files {
    files(&[("policy.yaml", policy(RULES)), (MODULE, format!("package gateway\n\n{DEFAULT}\n{body}\n"))])
}

fn rego(name: &'static str, body: &str, line: Option<usize>, says: &'static str) -> Entry {
    Entry { name, files: module(body), file: Some(MODULE), line, says }
}

fn yaml(name: &'static str, text: String, line: Option<usize>, says: &'static str) -> Entry {
    Entry { name, files: files(&[("policy.yaml", text)]), file: Some("policy.yaml"), line, says }
}

fn data(name: &'static str, file: &'static str, text: String, says: &'static str) -> Entry {
    let rules = format!("{RULES}\n  data: {file}");
    let module = format!("package gateway\n\n{DEFAULT}");
    Entry { name, files: files(&[("policy.yaml", policy(&rules)), (MODULE, module), (file, text)]), file: Some(file), line: None, says }
}

fn repeated(times: usize, one: impl Fn(usize) -> String) -> String {
    (0..times).fold(String::new(), |mut text, number| {
        writeln!(text, "{}", one(number)).unwrap();
        text
    })
}

/// All of them.
pub(crate) fn entries() -> Vec<Entry> {
    [
        recursion(),
        blow_ups(),
        hidden(),
        missed_bindings(),
        missed_heads(),
        missed_builtins(),
        sizes(),
        names(),
        types(),
        yaml_of_all_kinds(),
        tests_that_fail(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn recursion() -> Vec<Entry> {
    let chain = repeated(40, |number| format!("r{number} := r{}", number + 1)) + "r40 := 1";
    vec![
        rego("recursion of a function", "f(x) := f(x)\ndecision := {\"allow\": f(1), \"rule\": \"r\"}", Some(5), "depends on itself"),
        rego("recursion of two functions", "f(x) := g(x)\ng(x) := f(x)", Some(5), "depends on itself"),
        rego("recursion of rules", "a := b\nb := c\nc := a", Some(5), "depends on itself"),
        rego("recursion by data", "a := data.gateway.b\nb := data.gateway.a", Some(5), "depends on itself"),
        rego("recursion by the package", "a := count(data.gateway)", Some(5), "depends on itself"),
        rego("recursion by a variable", "a := x if some name\n\tx := data.gateway[name]", None, ""),
        rego("a long chain", &chain, None, "more than 16 deep"),
    ]
}

fn blow_ups() -> Vec<Entry> {
    let doubling = format!(
        "decision := {{\"allow\": true, \"rule\": \"r\"}} if {{\n\tx0 := [1, 1]\n{}\tcount(x30) > 1\n}}",
        repeated(30, |number| format!("\tx{} := array.concat(x{number}, x{number})", number + 1))
    );
    let texts = format!(
        "decision := {{\"allow\": true, \"rule\": \"r\"}} if {{\n\tx0 := \"aaaaaaaa\"\n{}\tcount(x40) > 1\n}}",
        repeated(40, |number| format!("\tx{} := concat(x{number}, [x{number}, x{number}])", number + 1))
    );
    let numbers = format!(
        "decision := {{\"allow\": true, \"rule\": \"r\"}} if {{\n\tx0 := 99999999999\n{}\tx40 > 1\n}}",
        repeated(40, |number| format!("\tx{} := x{number} * x{number}", number + 1))
    );
    let tree = repeated(14, |number| format!("f{number}(x) := f{}(x) + f{}(x + 1) + f{}(x + 2)", number + 1, number + 1, number + 1));
    let calls = format!("{tree}f14(x) := x\ndecision := {{\"allow\": f0(1) > 0, \"rule\": \"r\"}}");
    let loops = "ns := [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20]\n\
                 xs := {[a, b, c, d, e, f] | some a in ns; some b in ns; some c in ns; some d in ns; some e in ns; some f in ns}\n\
                 decision := {\"allow\": count(xs) > 0, \"rule\": \"r\"}";
    let endless = format!(
        "found if {{\n{}}}\nns := split(\"{}\", \"\")\ndecision := {{\"allow\": found, \"rule\": \"r\"}}",
        repeated(6, |number| format!("\tsome x{number} in ns")) + "\tx0 == \"b\"\n",
        "a".repeat(20)
    );
    let sums = format!("x := {}1", "1 +\n".repeat(10_000));
    vec![
        rego("deep literals", &format!("x := {}1{}", "[".repeat(40), "]".repeat(40)), Some(5), "nested more than 6 deep"),
        rego("deep literals over lines", &format!("x := {}1", "[\n".repeat(4_000)), Some(11), "nested more than 6 deep"),
        rego("deep calls", &format!("x := {}1", "abs(".repeat(30)), Some(5), "nested more than 6 deep"),
        rego("deep sets of objects", &format!("x := {}1", "{{\"a\":".repeat(30)), Some(5), "nested more than 6 deep"),
        rego("a deep sum", &sums, None, "parsing: it needed more than 1024 KiB of stack: something is nested too deeply"),
        rego("a deep reference", &format!("x := input{}", ".a".repeat(500)), None, ""),
        rego("many minus signs", &format!("x := {}1", "- ".repeat(400)), None, "parsing: it needed more than 1024 KiB of stack"),
        rego("nested loops", loops, Some(6), "values in it; at most 32768 are allowed"),
        rego("loops without end", &endless, None, "takes longer than 500 µs"),
        rego("calls of calls of calls", &calls, None, "takes longer than 500 µs"),
        rego("arrays that double", &doubling, Some(20), "`array.concat(x13, x13)` may have 49152 values in it; at most 32768 are allowed"),
        rego("texts that double", &texts, Some(13), "bytes of text; at most 524288 are allowed"),
        rego("numbers that square", &numbers, Some(13), "digits; at most 1024 are allowed"),
        rego("a range", "x := numbers.range(1, 1000000000)", Some(5), "`numbers.range` is not a function that rules may call"),
        rego("a shift", "x := bits.lsh(1, 100000000000)", Some(5), "`bits.lsh` is not a function"),
        rego("a wide format", "x := sprintf(\"%1000000000d\", [1])", Some(5), "more than 2 digits"),
        rego("a width in other numerals", "x := sprintf(\"%٣d\", [1])", Some(5), "must not have the numeral `٣`"),
        rego("a count of nothing", "x := strings.count(input.path, \"\")", Some(5), "`strings.count` is not a function"),
        rego("a subset of nothing", "x := object.subset([input.path], [])", Some(5), "`object.subset` is not a function"),
        rego("a format of the client", "x := sprintf(input.path, [1])", Some(5), "a client must not choose it"),
        rego("a hidden builtin", "numbers := 1\nx := numbers.range(1, 1000000000)", Some(5), "the name of the builtin"),
        rego("a pattern", "x := regex.match(\"(a+)+$\", input.path)", Some(5), "`regex.match` is not a function"),
        rego("a huge number", &format!("x := {}", "9".repeat(900)), Some(5), "more than 32 digits"),
        rego("a huge exponent", "x := 1e999999999", None, ""),
    ]
}

/// What grows behind a condition that no sample meets: the gate does not evaluate it, the filter might.
fn hidden() -> Vec<Entry> {
    let behind = |chain: String| {
        format!(
            "decision := {{\"allow\": true, \"rule\": \"r\"}} if {{\n\tcount(split(input.path, \"/\")) == 77\n{chain}\tcount(x30) == 1\n}}"
        )
    };
    let chain = |first: &str, next: fn(usize) -> String| behind(format!("\tx0 := {first}\n{}", repeated(30, next)));
    let (text, list, deep) = ("at most 524288 are allowed", "at most 32768 are allowed", "at most 32 are allowed");
    let grows = |name, first: &str, next: fn(usize) -> String, says| rego(name, &chain(first, next), None, says);
    let functions = repeated(14, |number| format!("f{}(x) := f{number}(f{number}(x))", number + 1));
    let rules = repeated(14, |number| {
        format!("r{} := array.concat(array.concat(r{number}, r{number}), array.concat(r{number}, r{number}))", number + 1)
    });
    vec![
        grows("hidden: texts that double", "input.path", |n| format!("\tx{} := sprintf(\"%s%s\", [x{n}, x{n}])", n + 1), text),
        grows("hidden: arrays that double", "[1]", |n| format!("\tx{} := array.concat(x{n}, x{n})", n + 1), list),
        grows("hidden: one value shared by all", "[1, 1]", |n| format!("\tx{} := [x{n}, x{n}]", n + 1), list),
        rego(
            "hidden: values within values",
            &behind(format!("\tx0 := 1\n{}", repeated(40, |n| format!("\tx{} := [x{n}]", n + 1)))),
            None,
            deep,
        ),
        grows("hidden: sets of pairs", "{\"a\", \"b\"}", |n| format!("\tx{} := {{[p, q] | some p in x{n}; some q in x{n}}}", n + 1), text),
        grows("hidden: lists of lists", "[1, 2]", |n| format!("\tx{} := [y | some z in x{n}; y := x{n}]", n + 1), list),
        grows("hidden: numbers that square", "9999", |n| format!("\tx{} := x{n} * x{n}", n + 1), "at most 1024 are allowed"),
        grows("hidden: replacements of replacements", "\"aaaa\"", |n| format!("\tx{} := replace(x{n}, \"a\", x{n})", n + 1), text),
        grows("hidden: escapes of escapes", "\"\\\"\"", |n| format!("\tx{} := json.marshal(x{n})", n + 1), text),
        grows("hidden: objects of objects", "{\"a\": 1}", |n| format!("\tx{} := {{\"a\": x{n}, \"b\": x{n}}}", n + 1), list),
        grows("hidden: in another order", "[1]", |n| format!("\tx{} := array.concat(x{}, x{})", 30 - n, 29 - n, 29 - n), list),
        rego(
            "hidden: functions of functions",
            &format!(
                "f0(x) := concat(\"\", [x, x])\n{functions}\ndecision := {{\"allow\": f14(input.path) == \"\", \"rule\": \"r\"}} if input.path == \"/\""
            ),
            Some(5),
            text,
        ),
        rego(
            "hidden: rules of rules",
            &format!("r0 := [1, 2]\n{rules}\ndecision := {{\"allow\": count(r14) > 1, \"rule\": \"r\"}} if count(input.path) == 77"),
            None,
            list,
        ),
        rego(
            "hidden: a list of all pairs",
            "xs := [[p, q] | some p in split(input.path, \"\"); some q in split(input.path, \"\")]",
            Some(5),
            text,
        ),
        rego("hidden: a search for itself", "x := indexof(input.path, input.path)", Some(5), "may take 67108864 steps"),
        rego("hidden: a trim by itself", "x := trim(input.path, input.path)", Some(5), "may take 67108864 steps"),
        rego("hidden: a product", "x := product([count(a) | some a in split(input.path, \"/\")])", Some(5), "at most 1024 are allowed"),
    ]
}

/// What the bounds of values once missed: each took seconds, gigabytes or the stack behind a condition that no sample meets.
fn missed(body: &str) -> String {
    format!("decision := {{\"allow\": true, \"rule\": \"r\"}} if {{\n\tcount(input.path) > 4000\n{body}}}")
}

const SEGMENTS: &str = "segments := split(input.path, \"/\")\n\n";

fn missed_bindings() -> Vec<Entry> {
    let text = "at most 524288 are allowed";
    vec![
        rego(
            "missed: a set below a key",
            &format!(
                "{SEGMENTS}g[\"a\"] contains s if some s in segments\n\n{}",
                missed("\tt := concat(\"\", g.a)\n\tc := replace(t, \"a\", t)\n\tcontains(c, \"b\")\n")
            ),
            None,
            "a rule is called `name`, `name[key]` or `name contains value`",
        ),
        rego(
            "missed: a loop that begins in a negation",
            &format!(
                "{SEGMENTS}p contains x if {{\n\tnot segments[i] == \"zz\"\n\tx := segments[i]\n}}\n\n{}",
                missed("\tt := concat(\"\", p)\n\tc := replace(t, \"a\", t)\n\tcontains(c, \"b\")\n")
            ),
            None,
            text,
        ),
        rego(
            "missed: a path that the client writes",
            &missed("\tjson.filter({\"a\": 1}, [replace(input.path, \"a\", \"/\")]) == {}\n"),
            Some(7),
            "the paths of `json.filter` have to stand there",
        ),
        rego(
            "missed: a variable with the name of a rule",
            &format!("x := \"a\"\n\n{}", missed("\tsome x\n\tx = input.path\n\ty := replace(x, \"a\", x)\n\tcontains(y, \"b\")\n")),
            None,
            text,
        ),
    ]
}

fn missed_heads() -> Vec<Entry> {
    let used = |rules: &str| {
        format!("{SEGMENTS}{rules}\n\n{}", missed("\tt := concat(\"\", p)\n\tc := replace(t, \"a\", t)\n\tcontains(c, \"b\")\n"))
    };
    let head = "a rule is called `name`, `name[key]` or `name contains value`";
    let text = "at most 524288 are allowed";
    let late = "\tsome x\n\ty := replace(x, \"a\", x)\n\tx = input.path\n\tcontains(y, \"b\")\n";
    vec![
        rego("missed: a name that is bound behind its use", &missed(late), None, text),
        rego("missed: a set of its own name", &used("p contains p if some p in segments"), None, text),
        rego(
            "missed: loops of what every goes through",
            &used("p := [input.path | every x in data.gateway.lists[_] { x != \"\" }]\n\nlists := [segments, segments, segments]"),
            None,
            text,
        ),
        rego(
            "missed: keys in keys of heads",
            &format!("r0 := [input.path]\n\nr1[r0] := 1\n\n{}", missed("\tcount(r1) == 0\n")),
            None,
            "is the key of an object",
        ),
        rego("missed: a head of many levels", &format!("q{} := 1", ".a".repeat(100)), None, head),
        rego("missed: a default below a key", "default g.a := [1]", None, head),
    ]
}

fn missed_builtins() -> Vec<Entry> {
    let text = "at most 524288 are allowed";
    let doubled = |first: &str, next: fn(usize) -> String| {
        missed(&format!("\tx0 := {first}\n{}\tcount(json.marshal(x16)) == 0\n", repeated(16, next)))
    };
    vec![
        rego(
            "missed: a key that is no key",
            &doubled("input.path", |n| format!("\tx{} := object.get({{\"k\": x{n}, \"l\": x{n}}}, [], null)\n", n + 1)),
            None,
            "are allowed",
        ),
        rego(
            "missed: objects in objects",
            &doubled("input.path", |n| format!("\tx{} := object.union({{\"z\": {{\"k\": x{n}}}}}, {{\"z\": {{\"l\": x{n}}}}}).z\n", n + 1)),
            None,
            "are allowed",
        ),
        rego(
            "missed: quotes in quotes",
            &missed(&format!(
                "\tx0 := input.path\n{}\tcount(x5) == 0\n",
                repeated(5, |n| format!("\tx{} := sprintf(\"%q\", [x{n}])\n", n + 1))
            )),
            None,
            text,
        ),
        rego(
            "missed: keys in keys",
            &missed(&format!(
                "\tx0 := \"\\\"\"\n{}\tcount(json.marshal(x24)) == 0\n",
                repeated(24, |n| format!("\tx{} := {{x{n}: 1}}\n", n + 1))
            )),
            Some(10),
            "is the key of an object",
        ),
        rego(
            "missed: a union of many",
            &format!("{SEGMENTS}{}", missed("\tcount(union({{s} | some s in segments})) == 0\n")),
            None,
            "may take",
        ),
        rego(
            "missed: loops on the stack",
            &missed(&repeated(100, |_| "\tinput.path[_] != \"a\"\n".into())),
            None,
            "more than 16 loops one within the other",
        ),
        rego(
            "missed: numbers of a list",
            &format!("{SEGMENTS}{}", missed("\tproduct([i | some i, _ in segments]) == 0\n")),
            None,
            "at most 1024 are allowed",
        ),
    ]
}

fn sizes() -> Vec<Entry> {
    let ten_megabytes = "# a comment of forty bytes, more or less\n".repeat(262_144);
    let many = |count: usize, bytes: usize| {
        let names: Vec<String> = (0..count).map(|number| format!("rules/m{number}.rego")).collect();
        let rules = format!("rules: {{modules: [{}], inputs: [path], gateways: [PP]}}", names.join(", "));
        let text = format!("package gateway\n{DEFAULT}{}", "# padding\n".repeat(bytes / 10));
        let mut files = files(&[("policy.yaml", policy(&rules))]);
        files.extend(names.into_iter().map(|name| (name, text.clone())));
        files
    };
    vec![
        rego("10 MB of rules", &ten_megabytes, None, "at most 65536 are allowed"),
        rego("a line of 60 KB", &"x".repeat(60_000), Some(5), "more than 1024 bytes"),
        yaml(
            "names of 900 KB",
            format!("permissions: [a.{}]\nroles: [{{name: r, permissions: [a.{}]}}]\n", "b".repeat(900_000), "c".repeat(900_000)),
            Some(1),
            "permissions[0]: the text has 900002 bytes; at most 128 are allowed",
        ),
        yaml("a word of 900 KB", format!("permissions: {}\n", "b".repeat(900_000)), Some(1), "invalid type"),
        Entry {
            name: "rules in many modules",
            files: many(8, 60_000),
            file: Some("policy.yaml"),
            line: None,
            says: "at most 262144 are allowed",
        },
        Entry { name: "too many modules", files: many(65, 10), file: Some("policy.yaml"), line: None, says: "at most 64 are allowed" },
        data("10 MB of data", "rules/data.json", format!("{{\"a\": \"{}\"}}", "x".repeat(10_000_000)), "at most 4194304 are allowed"),
        data("1 MB of data", "rules/data.json", format!("{{\"a\": \"{}\"}}", "x".repeat(1_000_000)), "at most 262144 are allowed"),
        yaml("10 MB of YAML", policy(&"# a comment of forty bytes, more or less\n".repeat(262_144)), None, "at most 4194304 are allowed"),
    ]
}

fn names() -> Vec<Entry> {
    let named = |name, yaml: &str, says| {
        let files = files(&[("policy.yaml", policy(yaml)), (MODULE, format!("package gateway\n{DEFAULT}"))]);
        Entry { name, files, file: Some("policy.yaml"), line: None, says }
    };
    vec![
        rego("an unknown builtin", "x := lowr(input.path)", Some(5), "the nearest name is `lower`"),
        rego("a call of a rule", "x := y(1)\n\ny := 2", Some(5), "`y` is no function"),
        rego("a call of a package", "x := data.gateway(1)", Some(5), "`data.gateway` is no function"),
        rego("a condition that becomes a call", "x if {\n\tinput.path\n\t(1 + 1) > 1\n}", Some(7), "`input.path` is no function"),
        rego("the time", "x := time.now_ns()", Some(5), "`time.now_ns` is not a function"),
        rego("chance", "x := rand.intn(\"a\", 6)", Some(5), "`rand.intn` is not a function"),
        rego("the network", "x := http.send({\"url\": \"http://127.0.0.1/\"})", Some(5), "`http.send` is not a function"),
        rego("the process", "x := opa.runtime()", Some(5), "`opa.runtime` is not a function"),
        rego("an unknown input", "x := input.jwt.role", Some(5), "the nearest name is `input.jwt.roles`"),
        rego("an input in brackets", "x := input[\"jwt\"][\"rolls\"]", Some(5), "the nearest name is `input.jwt.roles`"),
        rego("an undeclared input", "x := input.jwt.email", Some(5), "add `jwt.email` to rules.inputs"),
        rego("an unknown rule", "x := data.gateway.decisions", Some(5), "the nearest name is `data.gateway.decision`"),
        rego("unknown data", "x := data.elsewhere", Some(5), "`data.elsewhere` does not exist"),
        rego("an unknown variable", "x := nowhere", Some(5), "`nowhere` is nothing that is known here"),
        rego("an unknown variable in a body", "x if { y := 1; z == y }", Some(5), "`z` is nothing that is known here"),
        rego("`with` in a rule", "x := y if y := input.path with input as {}", Some(5), "`with` belongs into tests"),
        named("a module that nothing names", "rules: {modules: [rules/mian.rego], inputs: [], gateways: [PP]}", "no file includes it")
            .at(MODULE, "no file includes it"),
        named(
            "no such module",
            "rules: {modules: [rules/main.rego, rules/mian.rego], inputs: [], gateways: [PP]}",
            "`rules/mian.rego` does not exist; the nearest name is `rules/main.rego`",
        ),
        named(
            "no such data",
            &format!("{RULES}\n  data: rules/data.json"),
            "`rules/data.json` does not exist; the nearest name is `rules/main.rego`",
        ),
        named(
            "no such input",
            "rules: {modules: [rules/main.rego], inputs: [jwt.rolls], gateways: [PP]}",
            "the nearest name is `jwt.roles`",
        ),
        named("rules of the admin API", "rules: {modules: [rules/main.rego], inputs: [], gateways: [ADMIN]}", "decided by tables alone"),
        named("rules of no gateway", "rules: {modules: [rules/main.rego], inputs: [], gateways: []}", "at least one gateway"),
        named("an unknown permission", &format!("{RULES}\nbudgets: []\nroles: [{{name: a, permissions: [agent.raed]}}]"), "duplicate"),
    ]
}

fn types() -> Vec<Entry> {
    let other = |text: &str| files(&[("policy.yaml", policy(RULES)), (MODULE, text.to_owned())]);
    let plain = |name, text: &str, says| Entry { name, files: other(text), file: Some(MODULE), line: None, says };
    vec![
        plain("no default", "package gateway\ndecision := {\"allow\": true, \"rule\": \"r\"}", "has no default"),
        plain("no decision", "package gateway\ndecisions := 1", "defines `decision`"),
        plain("another package", "package gateways\ndefault decision := {}", "defines `decision`"),
        plain("no package", "decision := 1", ""),
        plain("no Rego", "\u{0}\u{1}\u{feff}??? %%% ---", ""),
        plain("nothing", "", ""),
        plain("a default of another shape", "package gateway\ndefault decision := true", "the decision is no object"),
        plain("a default without rule", "package gateway\ndefault decision := {\"allow\": true}", "the decision is not {allow"),
        plain(
            "a target of another name",
            "package gateway\ndefault decision := {\"allow\": true, \"rule\": \"r\", \"target\": \"x\"}",
            "target",
        ),
        rego(
            "a conflict",
            "decision := {\"allow\": true, \"rule\": \"a\"}\ndecision := {\"allow\": true, \"rule\": \"b\"}",
            Some(6),
            "conflicts",
        ),
        rego("a builtin on another type", "decision := {\"allow\": true, \"rule\": lower(input.jwt.roles)}", None, "string"),
        rego("a division by nothing", "decision := {\"allow\": 1 / count([]) > 1, \"rule\": \"r\"}", None, "divide"),
        data("data that are no object", "rules/data.json", "[1]".into(), "have to be an object"),
        data("data that are no JSON", "rules/data.json", "{\"a\": }".into(), "expected value"),
        data("data that hide a package", "rules/data.json", "{\"gateway\": {}}".into(), "").at(MODULE, "one would hide the other"),
        data(
            "deep data",
            "rules/data.json",
            format!("{{\"a\": {}1{}}}", "[".repeat(100_000), "]".repeat(100_000)),
            "nested more than 128 deep",
        ),
        data(
            "deep data in YAML",
            "rules/data.yaml",
            format!("a: {}1{}", "[".repeat(100_000), "]".repeat(100_000)),
            "nested more than 128 deep",
        ),
        data("an alias bomb in data", "rules/data.yaml", alias_bomb(""), "repetition limit"),
    ]
}

impl Entry {
    fn at(self, file: &'static str, says: &'static str) -> Self {
        Self { file: Some(file), says, ..self }
    }
}

fn alias_bomb(indent: &str) -> String {
    let tens = |level: usize| (0..10).map(|_| format!("*a{level}")).collect::<Vec<_>>().join(",");
    let levels = repeated(11, |level| format!("{indent}a{}: &a{} [{}]", level + 1, level + 1, tens(level)));
    format!("{indent}a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n{levels}")
}

fn yaml_of_all_kinds() -> Vec<Entry> {
    let deep = |open: &str, times: usize| format!("permissions: {}", open.repeat(times));
    vec![
        yaml("deep YAML", deep("[", 100_000), Some(1), "nested more than 128 deep"),
        yaml("deep YAML over lines", deep("[\n", 100_000), Some(129), "nested more than 128 deep"),
        yaml("deep YAML in braces", deep("{a: ", 100_000), Some(1), "nested more than 128 deep"),
        yaml("deep YAML in blocks", repeated(1_500, |level| format!("{}a:", " ".repeat(level))), None, ""),
        yaml("deep YAML of dashes", format!("permissions:\n  {}", "- ".repeat(100_000)), None, ""),
        yaml("an alias bomb", alias_bomb(""), None, "unknown field"),
        yaml("an alias of itself", "permissions: &a [*a]\n".into(), None, ""),
        yaml("a key twice", "permissions: []\npermissions: []\n".into(), Some(1), "duplicate"),
        yaml("another type", "permissions: {a: 1}\n".into(), Some(1), "invalid type"),
        yaml("a huge number", "settings: {stale_after_s: 99999999999999999999999}\n".into(), Some(1), "settings.stale_after_s"),
        yaml("a tag", "permissions: [!!python/object/apply:os.system {a: 1}]\n".into(), None, ""),
        yaml("a nul", "permissions: [\"a\u{0}b\"]\n".into(), None, ""),
        yaml("two documents", "permissions: []\n---\npermissions: []\n".into(), None, "document"),
        yaml("an unknown field", "permision: []\n".into(), Some(1), "unknown field"),
        yaml(
            "an unknown role",
            policy(&format!("{RULES}\n")).replace("permissions: [agent.read]}", "permissions: [agent.raed]}"),
            None,
            "agent.raed",
        )
        .with_module(),
    ]
}

impl Entry {
    fn with_module(mut self) -> Self {
        self.files.insert(MODULE.into(), format!("package gateway\n{DEFAULT}"));
        self
    }
}

fn tests_that_fail() -> Vec<Entry> {
    const TESTS: &str = "rules/main_test.rego";
    let tested = |name, test: &str, line, says| {
        let rules = RULES.replace("rules/main.rego", "rules/main.rego, rules/main_test.rego");
        let files = files(&[
            ("policy.yaml", policy(&rules)),
            (MODULE, format!("package gateway\n\n{DEFAULT}")),
            (TESTS, format!("package gateway_test\n\n{test}\n")),
        ]);
        Entry { name, files, file: Some(TESTS), line, says }
    };
    vec![
        tested(
            "a test that is false",
            "test_a if data.gateway.decision.allow with input as {}",
            Some(3),
            "`gateway_test.test_a` does not pass: it is undefined",
        ),
        tested("a test that fails", "test_a if lower(1) == data.gateway.decision.rule", Some(3), "does not pass"),
        tested(
            "a test without end",
            "xs := [1, 2, 3, 4, 5, 6, 7, 8, 9]\ntest_a if count([1 | some a in xs; some b in xs; some c in xs; some d in xs; some e in xs; some f in xs; some g in xs]) == 0",
            Some(4),
            "time limit",
        ),
        tested(
            "a test that takes all memory",
            &format!(
                "test_a if {{\n\tx0 := \"aaaaaaaa\"\n{}\tcount(x40) > 1\n}}",
                repeated(40, |number| format!("\tx{} := concat(x{number}, [{}])", number + 1, vec![format!("x{number}"); 40].join(", ")))
            ),
            None,
            "gateway_test.test_a",
        ),
        tested("a test that recurses", "f(x) := f(x)\ntest_a if f(1)", Some(3), "depends on itself"),
        tested("a test of nothing", "test_a if data.gateway.decison.allow", Some(3), "the nearest name is `data.gateway.decision`"),
        rego("a test among rules", "test_a if true", Some(5), "`_test.rego`"),
    ]
}
