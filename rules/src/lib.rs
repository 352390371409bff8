//! Custom rules in Rego: compiled, projected, evaluated, memoised. No I/O: modules, inputs and time come as arguments.
