"""Has other JOSE implementations judge the tokens of authn/examples/differential, and compares.

    jose_differential.py KEYS TOKENS

Each library verifies with the key that we verified with, and with all twelve algorithms allowed: they may be looser than
we are, so what only they accept is counted by class. What we accept has to be accepted by at least one of them, with the
same payload; else this ends with status 1.
"""

import base64
import collections
import json
import multiprocessing
import sys
import warnings

import joserfc.jwk
import joserfc.jws
import jwcrypto.jwk
import jwcrypto.jws
import jwt

ALGORITHMS = ["HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA"]
# RFC 9864 has a second name for EdDSA with Ed25519, which we and some of them take.
ALLOWED = [*ALGORITHMS, "Ed25519"]
VALID_SHARE_MIN = 0.2
COUNT_MIN = 100_000


def pyjwt(key):
    verifier = jwt.PyJWS()
    material = jwt.PyJWK(key["jwk"], algorithm=key["alg"]).key
    return lambda token: verifier.decode(token, material, algorithms=ALLOWED)


def jwcrypto_(key):
    material = jwcrypto.jwk.JWK(**key["jwk"])

    def verify(token):
        jws = jwcrypto.jws.JWS()
        jws.allowed_algs = ALLOWED
        jws.deserialize(token, material)
        return jws.payload

    return verify


def joserfc_(key):
    material = joserfc.jwk.import_key(key["jwk"])
    return lambda token: joserfc.jws.deserialize_compact(token, material, algorithms=ALLOWED).payload


LIBRARIES = {"PyJWT": pyjwt, "jwcrypto": jwcrypto_, "joserfc": joserfc_}
VERIFIERS = []


def prepare(keys):
    warnings.simplefilter("ignore")
    for key in keys:
        VERIFIERS.append({name: make(key) for name, make in LIBRARIES.items()})


def judge(line):
    """What each library says, and whether the payloads of those that accept are ours."""
    case = json.loads(line)
    payloads = {}
    for name, verify in VERIFIERS[case["key"]].items():
        try:
            payload = verify(case["token"])
        except Exception:  # Every library has its own errors, and some let others through.
            continue
        payloads[name] = payload.encode() if isinstance(payload, str) else payload
    ours = None
    if case["fault"] is None:
        ours = base64.urlsafe_b64decode(case["payload"] + "==")
    same = ours is None or all(payload == ours for payload in payloads.values())
    return case, sorted(payloads), same


def main():
    keys_file, tokens_file = sys.argv[1:]
    with open(keys_file) as file:
        keys = json.load(file)
    table = collections.defaultdict(collections.Counter)
    looser = collections.Counter()
    by_algorithm = collections.Counter()
    faults = []
    total = 0
    with open(tokens_file) as tokens, multiprocessing.Pool(2, prepare, (keys,)) as pool:
        for case, accepted_by, same in pool.imap(judge, tokens, chunksize=500):
            total += 1
            row = table[case["class"]]
            row["tokens"] += 1
            row.update(accepted_by)
            if case["fault"] is None:
                row["authn"] += 1
                by_algorithm[keys[case["key"]]["alg"]] += 1
                if len(accepted_by) < len(LIBRARIES):
                    row["authn, not all"] += 1
                if not accepted_by:
                    faults.append(("only we accept", case))
                if not same:
                    faults.append(("another payload", case))
            elif accepted_by:
                row["only others"] += 1
                looser[(case["class"], case["fault"], " ".join(accepted_by))] += 1

    columns = ["tokens", "authn", *LIBRARIES, "authn, not all", "only others"]
    print(f"{'class':34}" + "".join(f"{column:>16}" for column in columns))
    for name, row in sorted(table.items()):
        print(f"{name:34}" + "".join(f"{row[column]:>16}" for column in columns))
    valid = sum(by_algorithm.values())
    print(f"\n{total} tokens, {valid} accepted by authn ({valid / total:.0%}): " + ", ".join(f"{alg} {by_algorithm[alg]}" for alg in ALGORITHMS))
    print("\nRefused by authn, accepted by others:")
    for (name, fault, libraries), count in sorted(looser.items()):
        print(f"  {count:>6}  {name}: {fault} (accepted by {libraries})")
    for what, case in faults[:20]:
        print(f"\nFAULT, {what}: {json.dumps(case)}", file=sys.stderr)
    if faults:
        sys.exit(f"{len(faults)} tokens that authn alone accepts, or with another payload")
    if valid < total * VALID_SHARE_MIN or any(by_algorithm[alg] == 0 for alg in ALGORITHMS):
        sys.exit("too few right tokens: the test shows nothing")
    if total < COUNT_MIN:
        sys.exit(f"too few tokens: {total}, not {COUNT_MIN}")
    print("\nno token that authn alone accepts")


if __name__ == "__main__":
    main()
