"""The operator's view: one dashboard, and alarms that each require an action (docs/operations.md).

Functions emit the metrics of the namespace `Presence` (`shared/runtime.py`). Their one dimension is `service`, the name
of the stack. AWS emits the other metrics.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import aws_cdk as cdk
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_cloudwatch_actions as actions
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_sns as sns
from aws_cdk import aws_sns_subscriptions as subscriptions
from constructs import Construct

from infra.api import HttpSide, WebSocketSide
from infra.cache import Cache
from infra.options import Options
from shared.routes import AUTHORIZER

FIVE_MINUTES = cdk.Duration.minutes(5)
LATE = 10_000
"""Milliseconds. A due user is settled within about two seconds; five times that means that the sweeper is held up."""

INCONSISTENCIES = ("DueUnknown", "Expired", "LiveNotDue", "Unseen")
"""The kinds of inconsistent records that the sweeper finds and repairs."""


class Monitoring(Construct):
    """The dashboard, the alarms, and the topic that they notify."""

    def __init__(
        self,
        scope: Construct,
        id: str,
        options: Options,
        functions: Mapping[str, lambda_.Function],
        websocket: WebSocketSide,
        http: HttpSide,
        cache: Cache,
    ) -> None:
        super().__init__(scope, id)
        self._options, self._functions, self._websocket, self._http, self._cache = (
            options,
            functions,
            websocket,
            http,
            cache,
        )
        self._alarm_topic = self._topic()
        self.alarms = self._alarms()
        self.url = self._dashboard()

    # Metrics

    def _presence(self, name: str, statistic: str = "Sum", period: cdk.Duration = FIVE_MINUTES) -> cloudwatch.Metric:
        return cloudwatch.Metric(
            namespace="Presence",
            metric_name=name,
            dimensions_map={"service": self._options.stack},
            statistic=statistic,
            period=period,
        )

    def _gateway(self, name: str, statistic: str = "Sum", period: cdk.Duration = FIVE_MINUTES) -> cloudwatch.Metric:
        return self._websocket.stage.metric(name, statistic=statistic, period=period)

    def _cache_metric(self, name: str, statistic: str = "Sum") -> cloudwatch.Metric:
        return cloudwatch.Metric(
            namespace="AWS/ElastiCache",
            metric_name=name,
            dimensions_map={"clusterId": self._cache.name},
            statistic=statistic,
            period=FIVE_MINUTES,
        )

    def _over_functions(self, name: str) -> cloudwatch.MathExpression:
        """The sum of a Lambda metric over all functions."""
        metrics: dict[str, cloudwatch.IMetric] = {
            key: function.metric(name, statistic="Sum", period=FIVE_MINUTES)
            for key, function in self._functions.items()
        }
        return cloudwatch.MathExpression(
            expression=" + ".join(f"FILL({key}, 0)" for key in metrics),
            using_metrics=metrics,
            label=f"{name}, all functions",
            period=FIVE_MINUTES,
        )

    # Alarms

    def _topic(self) -> sns.ITopic | None:
        if self._options.alarm_topic:
            return sns.Topic.from_topic_arn(self, "Topic", self._options.alarm_topic)
        if self._options.alarm_email:
            topic = sns.Topic(self, "Topic", display_name=f"{self._options.stack}: alarms", enforce_ssl=True)
            topic.add_subscription(subscriptions.EmailSubscription(self._options.alarm_email))
            # enforce_ssl gives the topic a policy, which replaces the default one that lets alarms publish.
            account = {"StringEquals": {"aws:SourceAccount": cdk.Stack.of(self).account}}
            topic.grant_publish(iam.ServicePrincipal("cloudwatch.amazonaws.com", conditions=account))
            return topic
        return None

    def _alarms(self) -> list[cloudwatch.Alarm]:
        sent, failed = self._presence("PostsSent"), self._presence("PostsFailed")
        failing = cloudwatch.MathExpression(
            expression="IF(FILL(failed, 0) > 50, 100 * failed / (failed + FILL(sent, 0)), 0)",
            using_metrics={"failed": failed, "sent": sent},
            label="failed posts, percent",
            period=FIVE_MINUTES,
        )
        alarms = [
            self._alarm("Errors", self._over_functions("Errors"), 10, "Functions fail."),
            self._alarm("Throttles", self._over_functions("Throttles"), 10, "Lambda throttles the functions."),
            self._alarm(
                "PostsFail", failing, 5, "More than 5 % of the frames do not reach their connection.", periods=2
            ),
            self._alarm(
                "Late",
                self._presence("DueLateness", "Maximum", cdk.Duration.minutes(1)),
                LATE,
                "Due users are settled late, or the sweeper does not run.",
                periods=5,
                missing_data=cloudwatch.TreatMissingData.BREACHING,
            ),
            self._alarm("Redis", self._presence("RedisFailures"), 10, "Redis is unreachable or too slow."),
            self._alarm(
                "Authorizer",
                self._functions[AUTHORIZER].metric_errors(period=FIVE_MINUTES),
                1,
                "Nobody can connect: the authorizer fails.",
            ),
            self._alarm(
                "Gateway", self._gateway("ExecutionError"), 10, "API Gateway fails, or cannot invoke a function."
            ),
            self._alarm(
                "Messages",
                self._gateway("MessageCount", period=cdk.Duration.hours(1)),
                self._options.alarm_messages,
                "More messages in an hour than alarm_messages.",
            ),
        ]
        if self._cache.name:
            alarms += [
                self._alarm("Evictions", self._cache_metric("Evictions"), 0, "The cache is full and drops records."),
                self._alarm(
                    "CacheThrottled",
                    self._cache_metric("ThrottledCmds"),
                    0,
                    "The cache throttles commands: the load grew faster than the cache.",
                ),
            ]
        return alarms

    def _alarm(
        self,
        name: str,
        metric: cloudwatch.IMetric,
        threshold: float,
        meaning: str,
        *,
        periods: int = 1,
        missing_data: cloudwatch.TreatMissingData = cloudwatch.TreatMissingData.NOT_BREACHING,
    ) -> cloudwatch.Alarm:
        alarm = cloudwatch.Alarm(
            self,
            name,
            metric=metric,
            threshold=threshold,
            evaluation_periods=periods,
            comparison_operator=cloudwatch.ComparisonOperator.GREATER_THAN_THRESHOLD,
            treat_missing_data=missing_data,
            alarm_description=f"{meaning} What to do: docs/operations.md, “{name}”.",
        )
        if self._alarm_topic:
            alarm.add_alarm_action(actions.SnsAction(self._alarm_topic))
            alarm.add_ok_action(actions.SnsAction(self._alarm_topic))
        return alarm

    # Dashboard

    def _dashboard(self) -> str:
        dashboard = cloudwatch.Dashboard(self, "Dashboard", default_interval=cdk.Duration.hours(3))
        dashboard.add_widgets(cloudwatch.AlarmStatusWidget(title="Alarms", width=24, height=3, alarms=self.alarms))
        dashboard.add_widgets(
            _graph("Messages", [self._gateway("MessageCount"), self._gateway("ConnectCount")]),
            _graph("Client activity", [self._presence(name) for name in ("Connections", "Updates", "MessagesRefused")]),
            _graph("Changes", [self._presence(name) for name in ("Announcements", "Settled")]),
        )
        dashboard.add_widgets(
            _graph("Posts", [self._presence(f"Posts{result}") for result in ("Sent", "Gone", "Throttled", "Failed")]),
            _graph("Fan-out time, ms", [self._presence("PostTime", p) for p in ("p50", "p95", "p99")]),
            _graph("Lateness of settling, ms", [self._presence("DueLateness", "Maximum")]),
        )
        dashboard.add_widgets(
            _graph("Redis round trip, ms", [self._presence("RedisTime", p) for p in ("p50", "p95", "p99")]),
            _graph("Failures", [self._presence(name) for name in ("RedisFailures", "RecordsFailed", "Errors")]),
            _graph(
                "Rejected tokens, and API Gateway errors",
                [
                    self._presence("TokensRefused"),
                    *(self._gateway(name) for name in ("ClientError", "ExecutionError", "IntegrationError")),
                ],
            ),
        )
        dashboard.add_widgets(
            *(
                _graph(
                    title,
                    [
                        function.metric(name, statistic=statistic, label=key)
                        for key, function in self._functions.items()
                    ],
                )
                for title, name, statistic in (
                    ("Invocations", "Invocations", "Sum"),
                    ("Duration, ms (p95)", "Duration", "p95"),
                    ("Concurrent executions", "ConcurrentExecutions", "Maximum"),
                )
            )
        )
        dashboard.add_widgets(
            _graph("HTTP API", [self._http.api.metric_count(), self._http.api.metric_server_error()]),
            *(
                _graph(title, [self._cache_metric(name, statistic) for name in names])
                for title, names, statistic in (
                    ("Cache: bytes", ["BytesUsedForCache"], "Maximum"),
                    ("Cache: work", ["ElastiCacheProcessingUnits", "TotalCmdsCount"], "Sum"),
                    (
                        "Cache: refused",
                        ["AuthenticationFailures", "IamAuthenticationThrottling", "ThrottledCmds"],
                        "Sum",
                    ),
                )
                if self._cache.name
            ),
            _graph("Inconsistencies found", [self._presence(f"Inconsistencies{kind}") for kind in INCONSISTENCIES]),
        )
        region = cdk.Stack.of(self).region
        return (
            f"https://{region}.console.aws.amazon.com/cloudwatch/home?region={region}"
            f"#dashboards/dashboard/{dashboard.dashboard_name}"
        )


def _graph(title: str, metrics: Sequence[cloudwatch.IMetric]) -> cloudwatch.GraphWidget:
    return cloudwatch.GraphWidget(title=title, width=8, height=6, left=list(metrics))
