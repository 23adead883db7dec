"""What an operator sees: one dashboard, and alarms that each ask for something to be done (docs/operations.md).

Functions add up their own numbers and write them to the namespace `Presence` (`shared.runtime.Meter`), with the name
of the stack as their one dimension; the rest are AWS's.
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
"""Milliseconds. What is due is settled within about two seconds; at five times that something holds the sweeper up."""

INCONSISTENCIES = ("DueUnknown", "Expired", "LiveNotDue", "Unseen")
"""What the sweeper finds not to hang together, and mends."""


class Monitoring(Construct):
    """The dashboard, the alarms, and whom they tell."""

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
        self._tell = self._topic()
        self.alarms = self._alarms()
        self.url = self._dashboard()

    # Metrics

    def _ours(self, name: str, statistic: str = "Sum", period: cdk.Duration = FIVE_MINUTES) -> cloudwatch.Metric:
        return cloudwatch.Metric(
            namespace="Presence",
            metric_name=name,
            dimensions_map={"service": self._options.stack},
            statistic=statistic,
            period=period,
        )

    def _gateway(self, name: str, statistic: str = "Sum", period: cdk.Duration = FIVE_MINUTES) -> cloudwatch.Metric:
        return self._websocket.stage.metric(name, statistic=statistic, period=period)

    def _of_cache(self, name: str, statistic: str = "Sum") -> cloudwatch.Metric:
        return cloudwatch.Metric(
            namespace="AWS/ElastiCache",
            metric_name=name,
            dimensions_map={"clusterId": self._cache.name},
            statistic=statistic,
            period=FIVE_MINUTES,
        )

    def _over_functions(self, name: str) -> cloudwatch.MathExpression:
        """A metric of Lambda's, added up over all functions."""
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
            # A policy of its own, like the one that asks for TLS, takes the place of the one that lets alarms in.
            account = {"StringEquals": {"aws:SourceAccount": cdk.Stack.of(self).account}}
            topic.grant_publish(iam.ServicePrincipal("cloudwatch.amazonaws.com", conditions=account))
            return topic
        return None

    def _alarms(self) -> list[cloudwatch.Alarm]:
        sent, failed = self._ours("PostsSent"), self._ours("PostsFailed")
        failing = cloudwatch.MathExpression(
            expression="IF(FILL(failed, 0) > 50, 100 * failed / (failed + FILL(sent, 0)), 0)",
            using_metrics={"failed": failed, "sent": sent},
            label="posts that failed, percent",
            period=FIVE_MINUTES,
        )
        alarms = [
            self._alarm("Errors", self._over_functions("Errors"), 10, "Functions fail."),
            self._alarm("Throttles", self._over_functions("Throttles"), 10, "Lambda refuses to run more at once."),
            self._alarm("PostsFail", failing, 5, "More than 5 % of the frames do not reach their connection.", runs=2),
            self._alarm(
                "Late",
                self._ours("DueLateness", "Maximum", cdk.Duration.minutes(1)),
                LATE,
                "What is due is settled late, or the sweeper does not run.",
                runs=5,
                silence=cloudwatch.TreatMissingData.BREACHING,
            ),
            self._alarm("Redis", self._ours("RedisFailures"), 10, "Redis cannot be reached, or is too slow."),
            self._alarm(
                "Authorizer",
                self._functions[AUTHORIZER].metric_errors(period=FIVE_MINUTES),
                1,
                "Nobody can connect: the authorizer fails.",
            ),
            self._alarm(
                "Gateway", self._gateway("ExecutionError"), 10, "API Gateway fails, or cannot start a function."
            ),
            self._alarm(
                "Messages",
                self._gateway("MessageCount", period=cdk.Duration.hours(1)),
                self._options.alarm_messages,
                "More messages in an hour than was thought to be paid for.",
            ),
        ]
        if self._cache.name:
            alarms += [
                self._alarm("Evictions", self._of_cache("Evictions"), 0, "The cache is full and drops records."),
                self._alarm("CacheThrottled", self._of_cache("ThrottledCmds"), 0, "The cache grows too slowly."),
            ]
        return alarms

    def _alarm(
        self,
        name: str,
        metric: cloudwatch.IMetric,
        above: float,
        meaning: str,
        *,
        runs: int = 1,
        silence: cloudwatch.TreatMissingData = cloudwatch.TreatMissingData.NOT_BREACHING,
    ) -> cloudwatch.Alarm:
        alarm = cloudwatch.Alarm(
            self,
            name,
            metric=metric,
            threshold=above,
            evaluation_periods=runs,
            comparison_operator=cloudwatch.ComparisonOperator.GREATER_THAN_THRESHOLD,
            treat_missing_data=silence,
            alarm_description=f"{meaning} What to do: docs/operations.md, “{name}”.",
        )
        if self._tell:
            alarm.add_alarm_action(actions.SnsAction(self._tell))
            alarm.add_ok_action(actions.SnsAction(self._tell))
        return alarm

    # Dashboard

    def _dashboard(self) -> str:
        dashboard = cloudwatch.Dashboard(self, "Dashboard", default_interval=cdk.Duration.hours(3))
        dashboard.add_widgets(cloudwatch.AlarmStatusWidget(title="Alarms", width=24, height=3, alarms=self.alarms))
        dashboard.add_widgets(
            _graph("Messages", [self._gateway("MessageCount"), self._gateway("ConnectCount")]),
            _graph("What clients did", [self._ours(name) for name in ("Connections", "Updates", "MessagesRefused")]),
            _graph("Changes", [self._ours(name) for name in ("Announcements", "Settled")]),
        )
        dashboard.add_widgets(
            _graph("Posts", [self._ours(f"Posts{how}") for how in ("Sent", "Gone", "Throttled", "Failed")]),
            _graph("Time of a fan-out, ms", [self._ours("PostTime", p) for p in ("p50", "p95", "p99")]),
            _graph("Lateness of what is due, ms", [self._ours("DueLateness", "Maximum")]),
        )
        dashboard.add_widgets(
            _graph("Time of a stage in Redis, ms", [self._ours("RedisTime", p) for p in ("p50", "p95", "p99")]),
            _graph("Failures", [self._ours(name) for name in ("RedisFailures", "RecordsFailed", "Errors")]),
            _graph(
                "Refused, and API Gateway's failures",
                [
                    self._ours("TokensRefused"),
                    *(self._gateway(name) for name in ("ClientError", "ExecutionError", "IntegrationError")),
                ],
            ),
        )
        dashboard.add_widgets(
            *(
                _graph(
                    title,
                    [function.metric(name, statistic=how, label=key) for key, function in self._functions.items()],
                )
                for title, name, how in (
                    ("Invocations", "Invocations", "Sum"),
                    ("Duration, ms (p95)", "Duration", "p95"),
                    ("At the same time", "ConcurrentExecutions", "Maximum"),
                )
            )
        )
        dashboard.add_widgets(
            _graph("HTTP API", [self._http.api.metric_count(), self._http.api.metric_server_error()]),
            *(
                _graph(title, [self._of_cache(name, how) for name in names])
                for title, names, how in (
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
            _graph("What did not hang together", [self._ours(f"Inconsistencies{kind}") for kind in INCONSISTENCIES]),
        )
        region = cdk.Stack.of(self).region
        return (
            f"https://{region}.console.aws.amazon.com/cloudwatch/home?region={region}"
            f"#dashboards/dashboard/{dashboard.dashboard_name}"
        )


def _graph(title: str, metrics: Sequence[cloudwatch.IMetric]) -> cloudwatch.GraphWidget:
    return cloudwatch.GraphWidget(title=title, width=8, height=6, left=list(metrics))
