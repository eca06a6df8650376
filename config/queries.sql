-- The continuous queries: what is computed of every valid transaction. docs/sql.md has the
-- language; `caudal queries check config/queries.sql` reads this file without a broker.

-- Sales per merchant, currency and minute of event time. An account without transactions for an
-- hour no longer holds the windows of the others open.
CREATE TABLE ventas_gold WITH (IDLE_TIMEOUT = '1 HOUR') AS
  SELECT merchant_id, currency,
         COUNT(*) AS ventas, SUM(amount) AS total, MIN(amount) AS minimo, MAX(amount) AS maximo
  FROM transacciones_validas
  WINDOW TUMBLING (SIZE 1 MINUTE, GRACE PERIOD 10 SECONDS)
  WHERE kind = 'PURCHASE'
  GROUP BY merchant_id, currency
  EMIT CHANGES;

-- Velocity per account and currency: more than ten transactions, or more than 10,000, within 60
-- seconds. The grace is stated because the default of 24 hours would keep a day of every account.
CREATE TABLE alertas_fraude AS
  SELECT account_id, currency, COUNT(*) AS intentos, SUM(amount) AS total
  FROM transacciones_validas
  WINDOW HOPPING (SIZE 60 SECONDS, ADVANCE BY 10 SECONDS, GRACE PERIOD 10 SECONDS)
  GROUP BY account_id, currency
  HAVING COUNT(*) > 10 OR SUM(amount) > 10000
  EMIT CHANGES;
