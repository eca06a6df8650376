-- Examples of continuous queries: copy what you need to config/queries.sql. The demo runs them all.
-- `caudal queries explain config/examples.sql viaje_imposible` says what each one costs.

-- Impossible travel: an account that is used in several countries within one session, where no two
-- hours pass without a transaction of it.
CREATE TABLE viaje_imposible WITH (IDLE_TIMEOUT = '1 HOUR') AS
  SELECT account_id,
         COUNT_DISTINCT(country) AS paises,
         COUNT(*) AS intentos,
         EARLIEST_BY_OFFSET(country) AS primero,
         LATEST_BY_OFFSET(country) AS ultimo
  FROM transacciones_validas
  WINDOW SESSION (2 HOURS, GRACE PERIOD 10 MINUTES)
  WHERE country IS NOT NULL
  GROUP BY account_id
  HAVING COUNT_DISTINCT(country) > 1
  EMIT CHANGES;

-- Card testing: many small purchases of one account within five minutes.
CREATE TABLE prueba_de_tarjeta AS
  SELECT account_id, currency,
         COUNT(*) AS intentos, SUM(amount) AS total, MAX(amount) AS maximo
  FROM transacciones_validas
  WINDOW HOPPING (SIZE 5 MINUTES, ADVANCE BY 1 MINUTE, GRACE PERIOD 1 MINUTE)
  WHERE kind = 'PURCHASE' AND amount < 2
  GROUP BY account_id, currency
  HAVING COUNT(*) >= 5
  EMIT CHANGES;

-- Revenue by country and hour: one row when the hour is over.
CREATE TABLE ingresos_por_pais WITH (IDLE_TIMEOUT = '1 HOUR') AS
  SELECT COALESCE(country, '??') AS country, currency,
         COUNT(*) AS ventas, SUM(amount) AS total, AVG(amount) AS media
  FROM transacciones_validas
  WINDOW TUMBLING (SIZE 1 HOUR, GRACE PERIOD 5 MINUTES)
  WHERE kind IN ('PURCHASE', 'REFUND')
  GROUP BY COALESCE(country, '??'), currency
  EMIT FINAL;

-- Top merchants by day: the sales of each; order the rows of the table to see the first.
CREATE TABLE comercios_del_dia WITH (IDLE_TIMEOUT = '1 HOUR') AS
  SELECT merchant_id, currency,
         SUM(amount) AS total, COUNT(*) AS ventas, COUNT_DISTINCT(account_id) AS clientes
  FROM transacciones_validas
  WINDOW TUMBLING (SIZE 1 DAY, GRACE PERIOD 1 HOUR)
  WHERE kind = 'PURCHASE'
  GROUP BY merchant_id, currency
  EMIT CHANGES;

-- Refund ratio: merchants that give back more than a fifth of what they take in a day, from 20
-- transactions on. A refund's amount is negative.
CREATE TABLE devoluciones WITH (IDLE_TIMEOUT = '1 HOUR') AS
  SELECT merchant_id, currency,
         SUM(CASE WHEN kind = 'REFUND' THEN -amount ELSE 0 END) AS devuelto,
         SUM(CASE WHEN kind = 'PURCHASE' THEN amount ELSE 0 END) AS vendido,
         COUNT(*) AS movimientos
  FROM transacciones_validas
  WINDOW TUMBLING (SIZE 1 DAY, GRACE PERIOD 1 HOUR)
  WHERE kind IN ('PURCHASE', 'REFUND')
  GROUP BY merchant_id, currency
  HAVING COUNT(*) >= 20
     AND SUM(CASE WHEN kind = 'REFUND' THEN -amount ELSE 0 END) * 5
       > SUM(CASE WHEN kind = 'PURCHASE' THEN amount ELSE 0 END)
  EMIT CHANGES;

-- Large sales as a stream: a row for each, as soon as it comes; and how the largest of each country
-- develop, computed from that stream.
CREATE STREAM ventas_grandes AS
  SELECT transaction_id, account_id, merchant_id, COALESCE(country, '??') AS country, currency, amount
  FROM transacciones_validas
  WHERE kind = 'PURCHASE' AND amount >= 500
  PARTITION BY merchant_id;

CREATE TABLE mayores_por_pais WITH (IDLE_TIMEOUT = '1 HOUR') AS
  SELECT country, currency, COUNT(*) AS ventas, TOPK(amount, 3) AS mayores
  FROM ventas_grandes
  WINDOW TUMBLING (SIZE 1 HOUR, GRACE PERIOD 5 MINUTES)
  GROUP BY country, currency
  EMIT CHANGES;
