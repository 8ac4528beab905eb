#!/bin/sh
# Writes Alertmanager's configuration from the environment, then runs Alertmanager. Without NOTIFY_SLACK_WEBHOOK_URL
# alerts are shown on its page only. NOTIFY_HEARTBEAT_URL gets a message every five minutes as long as all is alive here.
# Both URLs are secrets: they go to files that no page shows.
set -eu
umask 077
receiver=nobody
if [ -n "$NOTIFY_SLACK_WEBHOOK_URL" ]; then
  receiver=slack
  printf %s "$NOTIFY_SLACK_WEBHOOK_URL" >/tmp/slack-webhook
fi
heartbeat=nobody
if [ -n "$NOTIFY_HEARTBEAT_URL" ]; then
  heartbeat=heartbeat
  printf %s "$NOTIFY_HEARTBEAT_URL" >/tmp/heartbeat-url
fi
cat >/tmp/alertmanager.yml <<EOF
route:
  receiver: $receiver
  group_by: [alertname]
  group_wait: 10s
  group_interval: 5m
  repeat_interval: 24h
  routes:
    - receiver: $heartbeat
      matchers: [alertname = Heartbeat]
      group_wait: 1s
      group_interval: 1m
      repeat_interval: 5m
# A server that is down makes its service slow or silent: one message is enough.
inhibit_rules:
  - source_matchers: [alertname = PostgresDown]
    target_matchers: [alertname =~ "MlflowDown|AirflowHeartbeatMissing|AirflowMetricsMissing"]
  - source_matchers: [alertname =~ "DagFailed|DagDidNotRun"]
    target_matchers: [alertname = DagDidNotEnd]
    equal: [dag_id]
receivers:
  - name: nobody
EOF
if [ $receiver = slack ]; then
  cat >>/tmp/alertmanager.yml <<'EOF'
  - name: slack
    slack_configs:
      - api_url_file: /tmp/slack-webhook
        send_resolved: true
        title: '{{ if eq .Status "firing" }}ALERT{{ else }}resolved{{ end }}: {{ .CommonLabels.alertname }}'
        text: '{{ range .Alerts }}{{ .Annotations.summary }}{{ "\n" }}{{ end }}'
EOF
fi
if [ $heartbeat = heartbeat ]; then
  cat >>/tmp/alertmanager.yml <<'EOF'
  - name: heartbeat
    webhook_configs:
      - url_file: /tmp/heartbeat-url
        send_resolved: false
EOF
fi
exec alertmanager --config.file=/tmp/alertmanager.yml --storage.path=/alertmanager --cluster.listen-address= \
  --web.external-url="$ALERTMANAGER_PUBLIC_URL"
