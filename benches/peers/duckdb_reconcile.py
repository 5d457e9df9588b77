"""The same reconciliation in DuckDB: reads the same NDJSON files and makes the same checks as `echopilot reconcile`, as set operations.

Called by the figures (`benches/run reconcile`) and by the integration tests as an oracle. Prints one JSON object of counts. It knows what
both sides of the comparison need: repeated rows, contradictions of the provider, payout sums, and the join with the ledger. It writes no
explanations, looks for no suspects and knows no corrections, partial captures or presentment currencies: inputs with those are not for it.

usage: duckdb_reconcile.py PAYOUTS BALANCE_TRANSACTIONS LEDGER NOW
"""

import json
import resource
import sys
import time

import duckdb

GRACE_S = 10 * 86_400

READ = """
CREATE TEMP TABLE payout AS SELECT * FROM read_json(?, format = 'newline_delimited', columns = {
  id: 'VARCHAR', amount: 'BIGINT', currency: 'VARCHAR', status: 'VARCHAR', reconciliation_status: 'VARCHAR',
  balance_transaction: 'VARCHAR', failure_balance_transaction: 'VARCHAR'});
CREATE TEMP TABLE line AS SELECT * FROM read_json(?, format = 'newline_delimited', columns = {
  id: 'VARCHAR', kind: 'VARCHAR', source: 'VARCHAR', seq: 'BIGINT', amount: 'BIGINT', currency: 'VARCHAR', "at": 'BIGINT'});
CREATE TEMP TABLE page AS SELECT * FROM read_json(?, format = 'newline_delimited', columns = {
  id: 'VARCHAR', amount: 'BIGINT', fee: 'BIGINT', net: 'BIGINT', currency: 'VARCHAR', reporting_category: 'VARCHAR', source: 'VARCHAR',
  created: 'BIGINT', payout: 'VARCHAR', fee_details: 'STRUCT(amount BIGINT)[]'});
"""

# One row per id; `torn` if its copies differ, `off` if it contradicts itself. A payout's own transactions are taken out by id.
ROWS = """
CREATE TEMP TABLE row AS
WITH folded AS (
  SELECT id, min(amount) AS amount, min(fee) AS fee, min(net) AS net, min(currency) AS currency, min(reporting_category) AS category,
         min(source) AS source, min(payout) AS payout, min(created) AS created,
         min(CASE WHEN len(fee_details) > 0 THEN list_sum([d.amount FOR d IN fee_details]) ELSE fee END) AS details,
         min(amount) <> max(amount) OR min(fee) <> max(fee) OR min(net) <> max(net) OR min(currency) <> max(currency)
           OR min(reporting_category) <> max(reporting_category) OR min(source) <> max(source) OR min(payout) <> max(payout) AS torn
  FROM page GROUP BY id)
SELECT f.*, f.torn OR f.amount - f.fee <> f.net OR f.details <> f.fee AS off,
       row_number() OVER (PARTITION BY f.category, f.source ORDER BY f.created, f.id) - 1 AS seq
FROM folded f
WHERE f.id NOT IN (SELECT balance_transaction FROM payout WHERE balance_transaction IS NOT NULL)
  AND NOT EXISTS (SELECT 1 FROM payout p WHERE p.id = f.payout AND p.failure_balance_transaction = f.id);
"""

JOIN = """
CREATE TEMP TABLE slot AS
SELECT kind, source, coalesce(seq, 0) AS seq, count(*) AS n, min(amount) AS amount, min(currency) AS currency, min("at") AS "at"
FROM line GROUP BY kind, source, coalesce(seq, 0);
CREATE TEMP TABLE joined AS
SELECT r.id, r.payout, s."at",
  CASE WHEN r.id IS NULL AND s.kind IN ('payout', 'payout_reversal') AND EXISTS (SELECT 1 FROM payout p WHERE p.id = s.source) THEN 'of_payout'
       WHEN r.id IS NULL AND s.n > 1 THEN 'duplicate_local'
       WHEN r.id IS NULL AND $now - s."at" < $grace THEN 'pending_provider'
       WHEN r.id IS NULL THEN 'missing_provider'
       WHEN r.off THEN 'provider_inconsistent'
       WHEN r.category = 'fee' THEN 'fee_booked'
       WHEN r.category = 'payout_reversal' THEN CASE WHEN r.payout IS NULL THEN 'matched_pending_payout' ELSE 'matched' END
       WHEN r.category NOT IN ('charge', 'refund', 'refund_failure', 'dispute', 'dispute_reversal') THEN 'unclassified'
       WHEN s.kind IS NULL THEN 'missing_in_ledger'
       WHEN s.n > 1 THEN 'duplicate_local'
       WHEN r.currency <> s.currency THEN 'currency_mismatch'
       WHEN r.amount <> s.amount THEN 'amount_mismatch'
       WHEN r.payout IS NULL THEN 'matched_pending_payout'
       ELSE 'matched' END AS status
FROM row r FULL OUTER JOIN slot s ON r.category = s.kind AND r.source = s.source AND r.seq = s.seq;
"""

PAYOUTS = """
SELECT count(*) FILTER (residual <> 0), count(*), coalesce(sum(residual), 0) FROM (
  SELECT p.id, any_value(p.amount) - coalesce(sum(r.net), 0) AS residual
  FROM payout p LEFT JOIN row r ON r.payout = p.id AND r.currency = p.currency
  WHERE p.reconciliation_status = 'completed' GROUP BY p.id);
"""


def main() -> None:
    payouts, transactions, ledger, now = sys.argv[1:5]
    start = time.monotonic()
    con = duckdb.connect()
    con.execute("SET preserve_insertion_order = false")
    for statement, path in zip(READ.split(";")[:3], (payouts, ledger, transactions)):
        con.execute(statement, [path])
    con.execute(ROWS)
    creates = JOIN.split(";")
    con.execute(creates[0])
    con.execute(creates[1], {"now": int(now), "grace": GRACE_S})
    counts = dict(con.execute("SELECT status, count(*) FROM joined WHERE status <> 'of_payout' GROUP BY status").fetchall())
    lines = con.execute(
        "SELECT count(*) FROM slot s JOIN payout p ON p.id = s.source WHERE s.kind = 'payout' AND s.amount <> -p.amount"
    ).fetchone()[0]
    unbalanced, judged, unexplained = con.execute(PAYOUTS).fetchone()
    print(
        json.dumps(
            {
                "transactions": counts,
                "unbalanced": unbalanced,
                "judged": judged,
                "unexplained": int(unexplained),
                "payout_lines_off": lines,
                "seconds": round(time.monotonic() - start, 3),
                "peak_kib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
                "version": duckdb.__version__,
            }
        )
    )


if __name__ == "__main__":
    main()
