"""The second opinion on service levels: scipy for the intervals, numpy for the quantiles, a generated series and the promtool test of it.

levels_oracle.py series MINUTES.ndjson RULES_DIR FROM DAYS   writes a series and promtool's files over it, prints the instants
levels_oracle.py wilson                                      reads "bad n low high" lines, fails where scipy says otherwise
levels_oracle.py quantiles                                   reads {"values": [...], "p50": ..., ...} and fails beyond the bound
"""

import json
import random
import sys

# 99.9 % over 30 days. A range selector of Prometheus 2 is closed on the left: an hour of minutes is 3599 s.
BUDGET = 0.001
WINDOWS = {"5m": 299, "30m": 1799, "1h": 3599, "2h": 7199, "6h": 21599, "1d": 86399, "3d": 259199}
TIERS = {"page": [("1h", "5m", 14.4), ("6h", "30m", 6)], "ticket": [("1d", "2h", 3), ("3d", "6h", 1)]}


def series(path, folder, start, days):
    """Quiet nights, a day incident, a night incident, a slow leak."""
    rng = random.Random(20261128)
    rows = []
    for i in range(days * 1440):
        hour = (i // 60) % 24
        total = rng.randint(40, 120) if 7 <= hour < 21 else rng.randint(1, 6)
        rate = 0.0004
        day = i // 1440
        if day == 1 and 600 <= i % 1440 < 660:
            rate = 0.05
        if day == 3 and 120 <= i % 1440 < 300:
            rate = 0.5
        if day == 4 and 540 <= i % 1440 < 1200:
            rate = 0.004
        bad = sum(rng.random() < rate for _ in range(total))
        rows.append((total, bad))
    with open(path, "w") as out:
        for i, (total, bad) in enumerate(rows):
            out.write(json.dumps({"minute": start + i, "total": total, "bad": bad, "slow": 0}) + "\n")
    instants = sorted({i for i in range(30, days * 1440, 97)} | {1440 + m for m in range(595, 700, 5)} | {3 * 1440 + m for m in range(115, 420, 15)})
    rules = {"groups": [{"name": "slo", "interval": "1m", "rules": [
        {"alert": severity, "expr": " or ".join(
            f"((sum_over_time(bad[{WINDOWS[long]}s]) / sum_over_time(total[{WINDOWS[long]}s]) > {factor} * {BUDGET})"
            f" and (sum_over_time(bad[{WINDOWS[short]}s]) / sum_over_time(total[{WINDOWS[short]}s]) > {factor} * {BUDGET}))"
            for long, short, factor in tiers), "labels": {"severity": severity}}
        for severity, tiers in TIERS.items()]}]}
    json.dump(rules, open(f"{folder}/rules.json", "w"))
    # Sample i is at minute i and is of the minute before: at minute i + 1 the minutes 0..i are closed.
    values = {name: " ".join(str(row[at]) for row in rows) for at, name in ((0, "total"), (1, "bad"))}
    json.dump(instants, open(f"{folder}/instants.json", "w"))
    json.dump({"series": values, "instants": instants}, open(f"{folder}/series.json", "w"))
    print(json.dumps({"instants": instants, "rows": len(rows)}))


def test_file(folder):
    """Writes promtool's unit test from our own verdicts (one JSON object in each line): promtool says whether they are right."""
    data = json.load(open(f"{folder}/series.json"))
    judged = {row["minute"]: row for row in map(json.loads, sys.stdin)}
    first = int(open(f"{folder}/start").read())
    expressions, alerts = [], []
    counted = {"ratios": 0, "alerts": 0, "firing": 0}
    for i in data["instants"]:
        row = judged[first + i]
        for window, seconds in WINDOWS.items():
            burn = row["burn"]["availability"][window]
            if burn is None:
                continue
            expressions.append({"expr": f"abs(sum_over_time(bad[{seconds}s]) / sum_over_time(total[{seconds}s]) / {BUDGET} - {burn}) < bool 1e-6", "eval_time": f"{i - 1}m", "exp_samples": [{"labels": "{}", "value": 1}]})
            counted["ratios"] += 1
        for severity in TIERS:
            firing = row["burning"][severity]
            counted["alerts"] += 1
            counted["firing"] += firing
            alerts.append({"eval_time": f"{i - 1}m", "alertname": severity, "exp_alerts": [{"exp_labels": {"severity": severity}}] if firing else []})
    test = {"rule_files": [f"{folder}/rules.json"], "evaluation_interval": "1m", "tests": [{"interval": "1m", "input_series": [
        {"series": name, "values": values} for name, values in data["series"].items()], "promql_expr_test": expressions, "alert_rule_test": alerts}]}
    json.dump(test, open(f"{folder}/test.json", "w"))
    print(json.dumps(counted))


def wilson():
    from scipy.stats import binomtest

    checked = 0
    for line in sys.stdin:
        bad, n, low, high = line.split()
        theirs = binomtest(int(bad), int(n)).proportion_ci(confidence_level=0.95, method="wilson")
        for ours, expected in ((float(low), theirs.low), (float(high), theirs.high)):
            assert abs(ours - expected) < 1e-9, (line, theirs)
        checked += 1
    print(json.dumps({"checked": checked}))


def poisson():
    from scipy.stats import poisson as p

    # The limits of the absence rule: so many expected events, and none comes, by chance alone.
    print(json.dumps({"page": p.pmf(0, 13.8), "ticket": p.pmf(0, 11.5)}))


def quantiles():
    import numpy

    worst = 0.0
    body = json.load(sys.stdin)
    values = numpy.array(body["values"])
    for name, share in (("p50_ms", 0.5), ("p95_ms", 0.95), ("p99_ms", 0.99)):
        exact = float(numpy.quantile(values, share, method="inverted_cdf"))
        error = abs(body[name] - exact) / exact
        worst = max(worst, error)
        assert error <= body["alpha"] + 1e-6, (name, exact, body[name])
    print(json.dumps({"worst": worst, "n": len(values)}))


if __name__ == "__main__":
    what, rest = sys.argv[1], sys.argv[2:]
    if what == "series":
        open(f"{rest[1]}/start", "w").write(rest[2])
        series(rest[0], rest[1], int(rest[2]), int(rest[3]))
    elif what == "test":
        test_file(rest[0])
    else:
        {"wilson": wilson, "poisson": poisson, "quantiles": quantiles}[what]()
