//! What is said of a value's size is compared with the value: modules are made at random, over data of known sizes.

use super::extent::Extent;
use super::*;
use crate::rules::outline::{Generation, Outline};
use proptest::prelude::*;
use regorus::Engine;
use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::time::Duration;

const DATA: &str = r#"{
    "text": "a/b\"é/a", "word": "a", "empty": "", "number": 97,
    "list": ["a", "b\"", "", "a/b"], "many": ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"], "object": {"a": "x", "b\"": "yy/"}
}"#;

/// What an expression is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Type {
    Text,
    List,
    Set,
    Object,
    Number,
}

/// A rule's form, with places for values made before it: `T`, `L`, `S`, `O` and `N` between `<` and `>`.
const FORMS: [(Type, &str); 54] = [
    (Type::Text, ":= sprintf(\"%s|%s\", [<T>, <T>])"),
    (Type::Text, ":= sprintf(\"%v and %v\", [<L>, <N>])"),
    (Type::Text, ":= sprintf(\"%q\", [<T>])"),
    (Type::Text, ":= sprintf(\"%9d\", [<N>])"),
    (Type::Text, ":= concat(<T>, <L>)"),
    (Type::Text, ":= concat(<T>, <S>)"),
    (Type::Text, ":= replace(<T>, <T>, <T>)"),
    (Type::Text, ":= upper(lower(<T>))"),
    (Type::Text, ":= json.marshal(<L>)"),
    (Type::Text, ":= json.marshal([<S>, <O>])"),
    (Type::Text, ":= strings.replace_n({\"a\": <T>, \"/\": \"--\"}, <T>)"),
    (Type::Text, ":= format_int(<N>, 2)"),
    (Type::Text, ":= substring(<T>, 1, -1)"),
    (Type::Text, ":= max(<L>)"),
    (Type::Text, ":= <L>[0]"),
    (Type::Text, ":= object.get(<O>, \"a\", <T>)"),
    (Type::Text, ":= x if {\n\tsome x in <L>\n\tcontains(x, \"a\")\n\tnot contains(x, \"/\")\n}"),
    (Type::Text, ":= <T> if count(<L>) > 2"),
    (Type::List, ":= split(<T>, <T>)"),
    (Type::List, ":= array.concat(<L>, <L>)"),
    (Type::List, ":= [x | some x in <L>]"),
    (Type::List, ":= [sprintf(\"%s%s\", [x, y]) | some x in <L>; some y in <S>]"),
    (Type::List, ":= [x | x := <L>[_]; <L>[i] != x]"),
    (Type::List, ":= [<T>, <T>]"),
    (Type::List, ":= sort(<S>)"),
    (Type::List, ":= array.slice(<L>, 0, 2)"),
    (Type::List, ":= [k | some k, _ in <O>]"),
    (Type::Set, ":= {x | some x in <L>}"),
    (Type::Set, ":= <S> | <S>"),
    (Type::Set, ":= {\"one\" | some x in <L>; some y in <L>; x != y}"),
    (Type::Set, "contains x if some x in <L>"),
    (Type::Set, "contains x if {\n\tnot <L>[i] == \"zz\"\n\tx := <L>[i]\n}"),
    (Type::Set, "contains concat(x, <L>) if some x in <L>"),
    (Type::Set, ":= object.keys(<O>)"),
    (Type::Set, ":= union({<S>, <S>})"),
    (Type::Object, ":= {x: <T> | some x in <L>}"),
    (Type::Object, ":= {<T>: <T>, \"k\": <T>}"),
    (Type::Object, ":= object.union({\"z\": <O>}, {\"z\": <O>}).z"),
    (Type::Object, ":= object.union_n([{\"z\": <O>}, {\"z\": <O>}]).z"),
    (Type::Object, ":= object.get({\"k\": <O>}, [\"k\"], {})"),
    (Type::Object, ":= object.remove(<O>, [\"a\"])"),
    (Type::Object, "[x] := y if {\n\tsome x in <L>\n\ty := concat(x, <L>)\n}"),
    (Type::Text, ":= y if {\n\tsome x\n\tx = <T>\n\ty := concat(x, <L>)\n}"),
    (Type::Text, ":= f(f(<T>))"),
    (Type::List, ":= [<T> | every x in [<L>, <L>][_] { x != \"zz\" }]"),
    (Type::List, ":= [<O>[_] | true]"),
    (Type::Object, "[x] := <T> if {\n\tsome x in <L>\n\tx == \"zz\"\n} else := concat(x, <L>) if {\n\tsome x in <L>\n}"),
    (Type::Number, ":= 0.1 * <N> + 0.2"),
    (Type::Number, ":= count(<L>)"),
    (Type::Number, ":= <N> * <N>"),
    (Type::Number, ":= <N> / 7"),
    (Type::Number, ":= product([i | some i, _ in <L>; i > 0])"),
    (Type::Number, ":= sum([count(x) | some x in <L>]) + <N>"),
    (Type::Number, ":= i if <L>[i] == \"b\\\"\""),
];

/// A module of rules, each over those before it.
fn module(choices: &[(usize, Vec<usize>)]) -> String {
    let mut made: BTreeMap<Type, Vec<String>> = BTreeMap::from([
        (Type::Text, ["data.text", "data.word", "data.empty"].map(String::from).to_vec()),
        (Type::List, ["data.list", "data.many"].map(String::from).to_vec()),
        (Type::Set, vec!["{\"a\", \"c\"}".to_owned()]),
        (Type::Object, vec!["data.object".to_owned()]),
        (Type::Number, vec!["data.number".to_owned()]),
    ]);
    let mut text = String::from("package gateway\n\nf(x) := concat(x, [x, \"-\", x])\n\n");
    for (number, (form, picks)) in choices.iter().enumerate() {
        let (of, form) = FORMS[form % FORMS.len()];
        let mut picks = picks.iter().cycle();
        let mut pick = |of: Type| {
            let known = &made[&of];
            // The newest every second time: what grows, grows upon itself.
            let index = picks.next().unwrap() % (2 * known.len());
            known[index.min(known.len() - 1)].clone()
        };
        let mut rule = form.to_owned();
        for (place, of) in [("<T>", Type::Text), ("<L>", Type::List), ("<S>", Type::Set), ("<O>", Type::Object), ("<N>", Type::Number)] {
            while rule.contains(place) {
                rule = rule.replacen(place, &pick(of), 1);
            }
        }
        text.push_str(&format!("r{number}{}{rule}\n\n", if rule.starts_with('[') { "" } else { " " }));
        made.entry(of).or_default().push(format!("r{number}"));
    }
    text
}

/// Bytes of text, values, digits and levels.
fn sizes(value: &regorus::Value) -> [u64; 4] {
    use regorus::Value as V;
    let around = |parts: &mut dyn Iterator<Item = &V>| {
        parts.map(sizes).fold([0, 1, 0, 1], |[text, values, digits, depth], [more, others, longest, deep]| {
            [text + more, values + others, digits.max(longest), depth.max(deep + 1)]
        })
    };
    match value {
        V::String(text) => [length(text), 1, 0, 0],
        V::Number(number) => [0, 1, length(number.format_decimal().trim_start_matches('-')), 0],
        V::Array(items) => around(&mut items.iter()),
        V::Set(items) => around(&mut items.iter()),
        V::Object(fields) => around(&mut fields.iter().flat_map(|(key, value)| [key, value])),
        V::Null | V::Bool(_) | V::Undefined => [0, 1, 0, 0],
    }
}

fn length(text: &str) -> u64 {
    extent::length(text)
}

/// What is told of each rule up to the first that is refused.
fn told(text: &str, data: &Map<String, Value>) -> Vec<(usize, Extent, [u64; 4])> {
    let outline = Outline::of("a.rego", text, Generation::V1).unwrap_or_else(|fault| panic!("{fault}\n{text}"));
    let outlines = [&outline];
    let mut growth = Growth::new(&outlines, &[], data);
    let rules = (0..).map_while(|number| growth.rules.contains_key(&outline.node(&format!("r{number}"))).then_some(number));
    let rules: Vec<usize> = rules.collect();
    let mut all = Vec::new();
    for number in rules {
        let Ok(extent) = growth.rule(&outline.node(&format!("r{number}"))) else { break };
        let most = [growth.loops.most(&extent.text), growth.loops.most(&extent.parts), extent.digits, extent.depth];
        all.push((number, extent, most));
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn no_value_is_larger_than_it_is_told_to_be(choices in prop::collection::vec((0..FORMS.len(), prop::collection::vec(0..64_usize, 6)), 1..9)) {
        let text = module(&choices);
        let data: Value = serde_json::from_str(DATA).unwrap();
        let told = told(&text, data.as_object().unwrap());
        let mut engine = Engine::new();
        engine.add_data(regorus::Value::from_json_str(DATA).unwrap()).unwrap();
        engine.add_policy("a.rego".into(), text.clone()).unwrap();
        let timer = regorus::utils::limits::ExecutionTimerConfig { limit: Duration::from_millis(200), check_interval: NonZeroU32::MIN };
        engine.set_execution_timer_config(timer);
        engine.set_input(regorus::Value::new_object());
        for (number, extent, most) in told {
            // A conflict, a builtin on a value that it does not take, or no value.
            let Ok(value) = engine.eval_rule(format!("data.gateway.r{number}")) else { continue };
            if value == regorus::Value::Undefined {
                continue;
            }
            let is = sizes(&value);
            prop_assert!(is.iter().zip(most).all(|(is, most)| *is <= most), "r{number} has {is:?}, told {most:?} {extent:?}: {value}\n{text}");
        }
    }
}

#[test]
fn every_form_has_a_value_somewhere() {
    for (number, (_, form)) in FORMS.iter().enumerate() {
        let text = module(&[(number, vec![0, 0, 0, 0])]);
        let mut engine = Engine::new();
        engine.add_data(regorus::Value::from_json_str(DATA).unwrap()).unwrap();
        engine.add_policy("a.rego".into(), text.clone()).unwrap();
        engine.set_input(regorus::Value::new_object());
        let value = engine.eval_rule("data.gateway.r0".into());
        assert!(value.as_ref().is_ok_and(|value| *value != regorus::Value::Undefined), "{form}: {value:?}\n{text}");
    }
}
