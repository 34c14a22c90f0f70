#!/usr/bin/env python3
"""A foreign client: knows no file of this repository, only the sockets of a running fleet.

It lists, describes (with the governance options), calls and streams on every socket of a run folder, all by
reflection. Needs: pip install grpcio grpcio-reflection protobuf.

    foreign.py <run folder> [--samples <folder of transcripts>] [--describe]
"""

import argparse
import json
import os
import pathlib
import queue
import re
import sys
import threading
import time

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory
from grpc_reflection.v1alpha import reflection_pb2

# A name that HTTP/2 accepts; without it grpcio sends the socket's path, and h2 refuses that as an authority.
AUTHORITY = ("grpc.default_authority", "localhost")
WAIT = 20
STANDARD = {"grpc.health.v1.Health", "mirror.kit.v1.KitService"}
FOLD = "mirror.fold.v1.FoldService"
# Services that serve a second one.
BESIDE = {"blobs": FOLD, "bus": "mirror.bus.v1.ConsumerService", "changelog": FOLD, "notify": FOLD}


class Checks:
    """Counts what held and what did not."""

    def __init__(self):
        self.passed = 0
        self.failed = 0

    def that(self, holds, what, seen=""):
        if holds:
            self.passed += 1
            print(f"ok    {what}")
        else:
            self.failed += 1
            print(f"FAIL  {what}: {seen}")
        return holds

    def run(self, what, function):
        """Runs a check that may raise; returns what it returned, or None."""
        try:
            return function()
        except Exception as error:  # Whatever a client library raises is a failure of the check.
            self.that(False, what, describe_error(error))
            return None


def describe_error(error):
    if isinstance(error, grpc.RpcError):
        return f"{error.code()} {error.details()}"
    return f"{type(error).__name__}: {error}"


class Reflection:
    """Asks one version of the reflection service; both versions have the same wire format."""

    def __init__(self, channel, version):
        self.call = channel.stream_stream(
            f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
            request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
            response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
        )

    def ask(self, **request):
        answers = self.call(iter([reflection_pb2.ServerReflectionRequest(**request)]), timeout=WAIT)
        answer = next(iter(answers))
        if answer.HasField("error_response"):
            raise LookupError(answer.error_response.error_message)
        return answer

    def services(self):
        return [s.name for s in self.ask(list_services="*").list_services_response.service]

    def files(self, **request):
        return list(self.ask(**request).file_descriptor_response.file_descriptor_proto)


class Socket:
    """One service, as far as reflection tells."""

    def __init__(self, path, options=(AUTHORITY,)):
        self.path = path
        self.name = path.stem
        self.channel = grpc.insecure_channel(f"unix:{path}", options=list(options))
        self.reflection = Reflection(self.channel, "v1alpha")
        self.pool = descriptor_pool.DescriptorPool()
        self.raw = {}

    def load(self, symbol):
        for raw in self.reflection.files(file_containing_symbol=symbol):
            self._add(raw)

    def _add(self, raw):
        file = descriptor_pb2.FileDescriptorProto.FromString(raw)
        if file.name in self.raw:
            return
        self.raw[file.name] = file
        for dependency in file.dependency:
            for inner in self.reflection.files(file_by_filename=dependency):
                self._add(inner)
        self.pool.AddSerializedFile(raw)

    def kind(self, name):
        return message_factory.GetMessageClass(self.pool.FindMessageTypeByName(name))

    def options(self, descriptor, base, extension):
        """Reads our extension from the option bytes as they were served, with what reflection told of it."""
        raw = descriptor.GetOptions().SerializeToString()
        options = self.kind(base).FromString(raw)
        found = self.pool.FindExtensionByName(extension)
        return options.Extensions[found] if options.HasExtension(found) else None

    def comment(self, service, index):
        """Returns the comment above a method."""
        file = self.raw[service.file.name]
        place = [6, [s.name for s in file.service].index(service.name), 2, index]
        found = [l.leading_comments for l in file.source_code_info.location if list(l.path) == place]
        return found[0].strip() if found else ""

    def method(self, path):
        service, name = path.split("/")
        return self.pool.FindServiceByName(service).FindMethodByName(name)

    def call(self, path, request, timeout=WAIT):
        """Calls any method with dictionaries; a stream in is an iterable of them, a stream out an iterator."""
        method = self.method(path)
        make = message_factory.GetMessageClass(method.input_type)
        arity = ("stream" if method.client_streaming else "unary") + "_" + (
            "stream" if method.server_streaming else "unary"
        )
        callable_ = getattr(self.channel, arity)(
            f"/{path}",
            request_serializer=make.SerializeToString,
            response_deserializer=message_factory.GetMessageClass(method.output_type).FromString,
        )
        if method.client_streaming:
            request = (json_format.ParseDict(one, make()) for one in request)
        else:
            request = json_format.ParseDict(request, make())
        return callable_(request, timeout=timeout)

    def metric(self, name):
        text = self.call("mirror.kit.v1.KitService/GetMetrics", {}).text
        return sum(float(l.rsplit(" ", 1)[1]) for l in text.splitlines() if l.startswith(name))


def as_json(message):
    return json_format.MessageToDict(message, preserving_proto_field_name=True)


def b64(data):
    import base64

    return base64.b64encode(data).decode()


def list_and_describe(socket, checks, show):
    """Lists by both versions of reflection and reads every method's options; returns the service's own name."""
    name = socket.name
    listed = {}
    for version in ("v1", "v1alpha"):
        listed[version] = checks.run(f"{name}: reflection {version}", Reflection(socket.channel, version).services)
    services = listed["v1alpha"] or []
    checks.that(listed["v1"] == listed["v1alpha"], f"{name}: v1 and v1alpha list the same", listed)
    own = f"mirror.{name.replace('-', '_')}.v1.{name.title().replace('-', '')}Service"
    known = STANDARD | {own} | {BESIDE[n] for n in (name,) if n in BESIDE}
    checks.that(set(services) == known, f"{name}: lists its own services, health and kit only", services)

    for service_name in services:
        checks.run(f"{name}: {service_name} is described", lambda s=service_name: socket.load(s))
    socket.load("mirror.options.v1.MethodOptions")
    for service_name in services:
        if not service_name.startswith("mirror."):
            continue
        service = socket.pool.FindServiceByName(service_name)
        rule = socket.options(service, "google.protobuf.ServiceOptions", "mirror.options.v1.service")
        checks.that(rule is not None and rule.when_away != 0, f"{name}: {service_name} says when_away", rule)
        for index, method in enumerate(service.methods):
            options = socket.options(method, "google.protobuf.MethodOptions", "mirror.options.v1.method")
            said = as_json(options) if options is not None else {}
            streams = method.client_streaming or method.server_streaming
            holds = (
                re.fullmatch(r"[a-z-]+\.[a-z]+", said.get("scope", ""))
                and said.get("risk") in ("LOW", "MEDIUM", "HIGH", "BY_ACTION")
                and said.get("when_halted") in ("ALLOW", "REFUSE")
                # False is not on the wire; the comment of an idempotent method says so too.
                and said.get("idempotent", False) == ("Idempotent" in socket.comment(service, index))
                and (streams or said.get("deadline_ms", 0) > 0)
            )
            checks.that(holds, f"{name}: {method.full_name} shows scope, risk, halt, idempotence, deadline, comment", said)
            if show:
                print(f"      {json.dumps(said)}\n      {socket.comment(service, index).splitlines()[0]}")
    try:
        socket.reflection.files(file_containing_symbol="mirror.none.v1.Nothing")
        checks.that(False, f"{name}: an unknown symbol is an error", "a file came back")
    except (LookupError, grpc.RpcError) as error:
        checks.that("not found" in str(error), f"{name}: an unknown symbol is not found", error)
    return own


def ask_the_kit(socket, checks):
    name = socket.name
    state = checks.run(f"{name}: GetState", lambda: as_json(socket.call("mirror.kit.v1.KitService/GetState", {})))
    if state:
        good = state["service"] == name and state["state"] == "STATE_SERVING" and state["build"]
        checks.that(good, f"{name}: GetState says serving", state)
    health = checks.run(f"{name}: health", lambda: as_json(socket.call("grpc.health.v1.Health/Check", {})))
    checks.that(health == {"status": "SERVING"}, f"{name}: health says serving", health)
    first = checks.run(
        f"{name}: health Watch", lambda: as_json(next(iter(socket.call("grpc.health.v1.Health/Watch", {}))))
    )
    checks.that(first == {"status": "SERVING"}, f"{name}: health streams its state", first)


def reason_of(error):
    """Decodes the rich details of an error with what reflection tells of google.rpc."""
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            return value
    return b""


def note(text, **more):
    return {"subject": "local.foreign", "payload": b64(text.encode()), "type": "PAYLOAD_TYPE_TEXT", **more}


def use_bus(socket, checks, _):
    bus = "mirror.bus.v1.BusService/"
    head = int(as_json(socket.call(bus + "GetStatus", {})).get("head", 0))
    # Opened before the events exist, so that they arrive live.
    live = queue.Queue(1000)
    tail = socket.call(bus + "Tail", {"from": str(head + 1), "filter": {"subjects": ["local.foreign"]}}, timeout=60)

    def follow():
        try:
            for part in tail:
                for event in part.events:
                    live.put(event)
        except grpc.RpcError:
            live.put(None)

    threading.Thread(target=follow, daemon=True).start()

    ack = as_json(socket.call(bus + "Append", {"event": note("one", labels=["foreign"])}))["ack"]
    checks.that(int(ack["seq"]) > head and ack["durability"] == "DURABILITY_SYNCED", "bus: Append is synced", ack)
    event = as_json(socket.call(bus + "GetEvent", {"seq": ack["seq"]}))["event"]
    checks.that(
        event["payload"] == b64(b"one") and event["actor"] == "local" and event["leaf"] == ack["leaf"],
        "bus: GetEvent returns what was appended",
        event,
    )
    parts = [{"events": [note(f"stream {n}") for n in range(at, at + 10)]} for at in range(0, 100, 10)]
    acks = [as_json(a) for a in socket.call(bus + "AppendStream", parts)]
    counts = [int(a["count"]) for a in acks]
    checks.that(counts == sorted(counts) and counts[-1] == 100, "bus: AppendStream acknowledges 100 events", acks[-1:])

    seen = []
    while len(seen) < 101:
        event = live.get(timeout=WAIT)
        if event is None:
            break
        seen.append(event.payload.decode())
    tail.cancel()
    wanted = ["one"] + [f"stream {n}" for n in range(100)]
    checks.that(seen == wanted, "bus: Tail delivers the 101 events in order, once", seen[:5])

    read = [e.payload.decode() for p in socket.call(bus + "Read", {"from": ack["seq"]}) for e in p.events]
    checks.that(read[:101] == wanted, "bus: Read returns them again", read[:5])
    checks.run("bus: its consumers are used", lambda: use_consumers(socket, checks, ack["seq"]))
    try:
        socket.call(bus + "Append", {"event": {**note("x"), "subject": "Not A Subject"}})
        checks.that(False, "bus: a bad subject is refused", "it was stored")
    except grpc.RpcError as error:
        good = error.code() == grpc.StatusCode.INVALID_ARGUMENT and "subject" in error.details()
        checks.that(good, "bus: a bad subject is refused by name", describe_error(error))
        checks.run("bus: the rich error is decoded by reflection", lambda: rich_error(socket, checks, error))


def use_consumers(socket, checks, first):
    """A durable consumer: what is acknowledged does not come again, what is refused does."""
    service = "mirror.bus.v1.ConsumerService/"
    config = {"name": "foreign", "filter": {"subjects": ["local.foreign"]}, "from": first}
    made = as_json(socket.call(service + "CreateConsumer", {"config": config}))
    checks.that(made.get("created"), "bus: CreateConsumer makes a consumer", made)
    got = as_json(socket.call(service + "Fetch", {"name": "foreign", "max": 2}))["deliveries"]
    checks.that([d["event"]["seq"] for d in got][:1] == [first], "bus: Fetch delivers in order", got)
    done = {"token": got[0]["token"], "outcome": "OUTCOME_ACK"}
    again = {"token": got[1]["token"], "outcome": "OUTCOME_NACK", "delay": "0s", "reason": "a test"}
    told = as_json(socket.call(service + "Settle", {"name": "foreign", "settlements": [done, again]}))
    checks.that("stale" not in told, "bus: Settle takes both tokens", told)
    back = as_json(socket.call(service + "Fetch", {"name": "foreign", "max": 1, "wait": "8s"}))["deliveries"][0]
    same = back["event"]["seq"] == got[1]["event"]["seq"] and back["attempt"] == 2
    checks.that(same, "bus: what was refused comes again, what was acknowledged does not", back)
    listed = as_json(socket.call(service + "ListConsumers", {"name": "foreign"}))["consumers"]
    checks.that(len(listed) == 1 and listed[0]["owner"] == "local", "bus: ListConsumers knows its owner", listed)
    socket.call(service + "DeleteConsumer", {"name": "foreign"})
    left = as_json(socket.call(service + "ListConsumers", {}))
    checks.that("consumers" not in left, "bus: DeleteConsumer removes it", left)


def use_fold(socket, checks, bus):
    bus.load("mirror.bus.v1.BusService")
    head = int(as_json(bus.call("mirror.bus.v1.BusService/GetStatus", {}))["head"])
    deadline, upto = time.monotonic() + WAIT, 0
    while upto < head and time.monotonic() < deadline:
        upto = int(as_json(socket.call(FOLD + "/GetFold", {})).get("upto", 0))
    checks.that(upto >= head, f"{socket.name}: GetFold reaches the head", (upto, head))


def rich_error(socket, checks, error):
    raw = reason_of(error)
    for kind in ("google.rpc.Status", "google.rpc.ErrorInfo", "google.rpc.BadRequest"):
        socket.load(kind)
    status = socket.kind("google.rpc.Status").FromString(raw)
    details = {}
    for one in status.details:
        kind = one.type_url.rsplit("/", 1)[1]
        details[kind] = as_json(socket.kind(kind).FromString(one.value))
    info = details.get("google.rpc.ErrorInfo", {})
    fields = details.get("google.rpc.BadRequest", {}).get("field_violations", [])
    good = info.get("reason") == "BUS_EVENT_INVALID" and info.get("domain") == "mirror.bus"
    checks.that(good and fields, "bus: the rich error is decoded by reflection", details)


def use_blobs(socket, checks, _):
    blobs = "mirror.blobs.v1.BlobsService/"
    content = os.urandom(1_000_000)
    chunks = [{"chunk": b64(content[at : at + 200_000])} for at in range(0, len(content), 200_000)]
    put = as_json(socket.call(blobs + "PutBlob", chunks))
    checks.that(int(put["size_bytes"]) == len(content), "blobs: PutBlob takes a stream", put)
    info = as_json(socket.call(blobs + "GetBlobInfo", {"digest": put["digest"]}))
    checks.that(int(info["size_bytes"]) == len(content), "blobs: GetBlobInfo knows it", info)
    back = b"".join(p.chunk for p in socket.call(blobs + "GetBlob", {"digest": put["digest"]}))
    checks.that(back == content, "blobs: GetBlob streams the same bytes", len(back))


def use_changelog(socket, checks, bus):
    service = "mirror.changelog.v1.ChangelogService/"
    watch = socket.call(service + "WatchChangelog", {}, timeout=60)
    pages = queue.Queue(1000)

    def follow():
        try:
            for page in watch:
                pages.put(as_json(page))
        except grpc.RpcError:
            pages.put(None)

    threading.Thread(target=follow, daemon=True).start()
    ack = as_json(bus.call("mirror.bus.v1.BusService/Append", {"event": note("for the changelog")}))["ack"]
    page = {}
    while page is not None and int(page.get("upto", 0)) < int(ack["seq"]):
        page = pages.get(timeout=WAIT)
    watch.cancel()
    checks.that(page and page["day"]["entries"], "changelog: WatchChangelog shows the day of a new event", page)
    answer = as_json(socket.call(service + "GetChangelog", {"days": 3}))
    checks.that(int(answer["upto"]) >= int(ack["seq"]) and answer["days"], "changelog: GetChangelog answers", answer)


def use_registry(socket, checks, _):
    service = "mirror.registry.v1.RegistryService/"
    records = as_json(socket.call(service + "ListServices", {}))["services"]
    names = {r["name"] for r in records}
    checks.that({"bus", "registry"} <= names, "registry: ListServices knows the fleet", sorted(names))
    one = as_json(socket.call(service + "GetService", {"name": "bus"}))["service"]
    checks.that(one["actual"] == "ACTUAL_SERVING", "registry: GetService says that the bus serves", one)
    watch = socket.call(service + "WatchServices", {}, timeout=60)
    seen = set()
    for record in watch:
        seen.add(record.service.name)
        if seen == names:
            break
    watch.cancel()
    checks.that(seen == names, "registry: WatchServices streams all services", sorted(seen))


def use_import(socket, checks, _):
    service = "mirror.import.v1.ImportService/"
    try:
        list(socket.call(service + "RunImport", {"path": "relative/path"}))
        checks.that(False, "import: a relative path is refused", "it was taken")
    except grpc.RpcError as error:
        checks.that(
            error.code() == grpc.StatusCode.INVALID_ARGUMENT, "import: a relative path is refused", describe_error(error)
        )
    if SAMPLES is None:
        print("skip  import: RunImport of transcripts (no --samples)")
        return
    parts = [as_json(p) for p in socket.call(service + "RunImport", {"path": str(SAMPLES)}, timeout=120)]
    report = {k: int(v) for k, v in parts[-1]["report"].items() if isinstance(v, str)}
    rows = report.get("taken", 0) + report.get("skipped", 0) + report.get("quarantined", 0)
    checks.that(
        report.get("rows", 0) == rows > 0, "import: RunImport streams a report that accounts for each row", parts[-1]
    )
    again = as_json(list(socket.call(service + "RunImport", {"path": str(SAMPLES)}, timeout=120))[-1])["report"]
    checks.that("taken" not in again, "import: a second run takes nothing", again)


def refused(socket, checks, what, path, request, code, part=""):
    """Makes a call that must be refused, with a code and a word of its message."""
    what = f"{socket.name}: {what}"
    try:
        checks.that(False, what, as_json(socket.call(path, request)))
    except grpc.RpcError as error:
        checks.that(error.code() == code and part in error.details(), what, describe_error(error))


def first_of(socket, path, request=None):
    """Returns the first message of a stream and leaves it."""
    stream = socket.call(path, request or {})
    try:
        return as_json(next(iter(stream)))
    finally:
        stream.cancel()


def use_halt(socket, checks, _):
    service = "mirror.halt.v1.HaltService/"
    halt = as_json(socket.call(service + "GetHalt", {}))["halt"]
    checks.that("engaged" not in halt, "halt: GetHalt says released", halt)
    first = first_of(socket, service + "WatchHalt")["halt"]
    checks.that(first == halt, "halt: WatchHalt begins with the state", first)
    # Nothing here engages it: only the owner's key would release it again.
    refused(
        socket, checks, "a release without proof is refused", service + "ReleaseHalt", {"envelope": "{}"},
        grpc.StatusCode.PERMISSION_DENIED, "envelope",
    )


def use_keeper(socket, checks, _):
    service = "mirror.keeper.v1.KeeperService/"
    keys = as_json(socket.call(service + "ListKeys", {}))["keys"]
    purposes = {key["purpose"] for key in keys}
    checks.that({"device", "checkpoint", "halt"} <= purposes, "keeper: ListKeys shows the public keys", keys)
    answer = as_json(socket.call(service + "ListRecords", {}))
    numbers = [int(record["number"]) for record in answer["records"]]
    checks.that(
        numbers == list(range(1, len(numbers) + 1)) and int(answer["head"]) >= len(numbers),
        "keeper: ListRecords returns its own log",
        answer,
    )
    refused(
        socket, checks, "a signature is refused to this client", service + "SignNote", {"text": "x\n1\ny\n"},
        grpc.StatusCode.PERMISSION_DENIED,
    )


def use_witness(socket, checks, bus):
    service = "mirror.witness.v1.WitnessService/"
    ack = as_json(bus.call("mirror.bus.v1.BusService/Append", {"event": note("for the witness")}))["ack"]
    made = as_json(socket.call(service + "RunCheckpoint", {}))["checkpoint"]
    signed = made["note"].split("\n")
    checks.that(
        int(made["size"]) >= int(ack["seq"]) and signed[1] == made["size"] and "\n\n\u2014 " in made["note"],
        "witness: RunCheckpoint has the head signed",
        made,
    )
    newest = as_json(socket.call(service + "GetCheckpoint", {}))["checkpoint"]
    checks.that(int(newest["size"]) >= int(made["size"]), "witness: GetCheckpoint returns the newest", newest)
    proof = as_json(socket.call(service + "ProveInclusion", {"seq": ack["seq"], "size": made["size"]}))
    checks.that(proof["leaf"] == ack["leaf"] and proof["note"] == made["note"], "witness: ProveInclusion proves it", proof)
    growth = as_json(socket.call(service + "ProveConsistency", {"from_size": 1, "to_size": made["size"]}))
    checks.that(growth["to_root"] == proof["root"], "witness: ProveConsistency ends at the same root", growth)
    listed = as_json(socket.call(service + "ListCheckpoints", {"limit": 100}))["checkpoints"]
    checks.that(made["note"] in [c["note"] for c in listed], "witness: ListCheckpoints has it", listed)
    begun = as_json(socket.call(service + "RunVerification", {}))
    deadline = time.monotonic() + WAIT
    state = {}
    while "finished" not in state and time.monotonic() < deadline:
        state = as_json(socket.call(service + "GetVerification", {}))
    checks.that(
        "finished" in state and "findings" not in state, "witness: a verification finds nothing wrong", (begun, state)
    )


def use_schedule(socket, checks, _):
    service = "mirror.schedule.v1.ScheduleService/"
    job = {"name": "foreign", "summary": "From a foreign client.", "every_ms": "60000", "limit_ms": "10000"}
    put = as_json(socket.call(service + "PutJob", {"job": {**job, "catch_up": "CATCH_UP_ONCE"}}))
    checks.that(put.get("changed") and put["job"]["owner"] == "local", "schedule: PutJob makes a job", put)
    jobs = as_json(socket.call(service + "ListJobs", {}))["jobs"]
    mine = [j for j in jobs if j["job"]["name"] == "foreign"]
    checks.that(len(mine) == 1 and mine[0]["next"], "schedule: ListJobs says when it is next due", jobs)
    none = as_json(socket.call(service + "ListOccurrences", {"job": "foreign"}))
    checks.that(none == {}, "schedule: ListOccurrences has none yet", none)
    refused(
        socket, checks, "an occurrence that is not due is refused", service + "StartOccurrence",
        {"job": "foreign", "due": mine[0]["next"]}, grpc.StatusCode.FAILED_PRECONDITION,
    )
    gone = as_json(socket.call(service + "DeleteJob", {"name": "foreign"}))
    checks.that(gone == {"deleted": True}, "schedule: DeleteJob deletes it", gone)


def use_notify(socket, checks, _):
    service = "mirror.notify.v1.NotifyService/"
    card = {"subject": "foreign.card", "title": "One card", "body": "From a foreign client.", "urgency": "URGENCY_MIN"}
    put = [as_json(socket.call(service + "PutCard", {"card": card})) for _ in range(2)]
    checks.that(put == [{"changed": True}, {}], "notify: PutCard takes a card once", put)
    shown = {c["card"]["subject"]: c for c in as_json(socket.call(service + "ListCards", {}))["cards"]}
    mine = shown.get("foreign.card", {})
    checks.that(mine.get("card") == card and mine["by"] == "local", "notify: ListCards shows it", shown)
    gone = as_json(socket.call(service + "DeleteCard", {"subject": "foreign.card"}))
    checks.that(gone == {"deleted": True}, "notify: DeleteCard clears it", gone)


def use_remedy(socket, checks, _):
    service = "mirror.remedy.v1.RemedyService/"
    remedies = as_json(socket.call(service + "ListRemedies", {}))["remedies"]
    whole = all(r["summary"] and r["precondition"] and r["verify"] for r in remedies)
    checks.that(whole and "restart" in {r["id"] for r in remedies}, "remedy: ListRemedies is a catalogue", remedies)
    run = {"id": "foreign-1", "remedy": "start", "target": "registry", "cause": "a foreign client asks"}
    action = as_json(socket.call(service + "RunRemedy", run))["action"]
    # What serves is not touched.
    checks.that(
        action["outcome"] in ("OUTCOME_NOT_NEEDED", "OUTCOME_HELD_BACK"), "remedy: RunRemedy leaves alone what runs", action
    )
    again = as_json(socket.call(service + "RunRemedy", run))["action"]
    checks.that(again == action, "remedy: the same id returns the same action", again)
    actions = as_json(socket.call(service + "ListActions", {"limit": 10}))["actions"]
    checks.that(action in actions, "remedy: ListActions has it", actions)
    refused(
        socket, checks, "an unknown remedy is refused", service + "RunRemedy",
        {**run, "id": "foreign-2", "remedy": "shout"}, grpc.StatusCode.INVALID_ARGUMENT, "remedy",
    )


def use_supervisor(socket, checks, _):
    service = "mirror.supervisor.v1.SupervisorService/"
    answer = as_json(socket.call(service + "ListAgents", {}))
    agents = {a["name"]: a for a in answer["agents"]}
    running = agents["bus"]["state"] == "AGENT_STATE_RUNNING" and agents["bus"]["pid"] > 0
    checks.that(running and answer["backend"] == "up", "supervisor: ListAgents says that the bus runs", answer)
    checks.that(agents["job.verify-log"]["job"], "supervisor: jobs are agents", sorted(agents))
    first = first_of(socket, service + "WatchAgents")["agent"]
    checks.that(first["name"] in agents, "supervisor: WatchAgents begins with what is", first)
    same = as_json(socket.call(service + "StartAgent", {"name": "bus"}))["agent"]
    checks.that(same["pid"] == agents["bus"]["pid"], "supervisor: StartAgent leaves alone what runs", same)
    was = agents["blobs"]
    socket.call(service + "StopAgent", {"name": "blobs", "reason": "a foreign client asks"})
    stopped = {a["name"]: a for a in as_json(socket.call(service + "ListAgents", {}))["agents"]}["blobs"]
    checks.that(
        "pid" not in stopped and stopped["desired"] == "AGENT_DESIRED_STOPPED", "supervisor: StopAgent stops", stopped
    )
    socket.call(service + "StartAgent", {"name": "blobs"})
    back = None
    for part in socket.call(service + "WatchAgents", {}, timeout=WAIT):
        agent = as_json(part)["agent"]
        if agent["name"] == "blobs" and agent["state"] == "AGENT_STATE_RUNNING":
            back = agent
            break
    checks.that(back and back["pid"] != was["pid"], "supervisor: StartAgent starts a new process", back)
    refused(
        socket, checks, "an unknown agent is refused by name", service + "RestartAgent", {"name": "nobody"},
        grpc.StatusCode.NOT_FOUND, "nobody",
    )


def use_pulse(socket, checks, _):
    service = "mirror.pulse.v1.PulseService/"
    pulse = as_json(socket.call(service + "GetPulse", {}))["pulse"]
    names = {t["name"] for t in pulse["targets"]}
    checks.that({"bus", "registry"} <= names and pulse["summary"], "pulse: GetPulse has a verdict of the fleet", pulse)
    first = first_of(socket, service + "WatchPulse")["pulse"]
    checks.that({t["name"] for t in first["targets"]} == names, "pulse: WatchPulse begins with the pulse", first)
    checks.that(as_json(socket.call(service + "RunSweep", {}))["pulse"]["swept"], "pulse: RunSweep sweeps")
    socket.call(service + "ListIncidents", {"limit": 10})
    kept = as_json(socket.call(service + "PutMaintenance", {"for_ms": "60000", "reason": "a foreign client asks"}))
    checks.that(kept["until"], "pulse: PutMaintenance begins", kept)
    over = as_json(socket.call(service + "PutMaintenance", {}))
    checks.that("until" not in over, "pulse: PutMaintenance ends", over)


USES = {
    "bus": use_bus,
    "blobs": use_blobs,
    "changelog": use_changelog,
    "registry": use_registry,
    "import": use_import,
    "halt": use_halt,
    "keeper": use_keeper,
    "witness": use_witness,
    "schedule": use_schedule,
    "notify": use_notify,
    "remedy": use_remedy,
    "supervisor": use_supervisor,
    "pulse": use_pulse,
}
SAMPLES = None


def wrong_authority(socket, checks):
    """Shows the trap and the hint: grpcio as it comes sends the socket's path as authority."""
    name = socket.name
    counter = "mirror_connections_refused_total"
    before = socket.metric(counter)
    naive = grpc.insecure_channel(f"unix:{socket.path}")
    call = naive.unary_unary(
        "/mirror.kit.v1.KitService/GetState",
        request_serializer=lambda _: b"",
        response_deserializer=lambda raw: raw,
    )
    try:
        call(None, timeout=WAIT)
        checks.that(False, f"{name}: without the option the call fails", "it was answered")
        return
    except grpc.RpcError as error:
        failed = error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL)
        checks.that(failed, f"{name}: without the option the call fails ({error.code().name})", describe_error(error))
    finally:
        naive.close()
    after = socket.metric(counter)
    checks.that(after > before, f"{name}: it was counted", (before, after))
    log = socket.path.parent.parent / "log" / f"{name}.log"
    deadline = time.monotonic() + WAIT
    lines = []
    while not lines and time.monotonic() < deadline:
        rows = [json.loads(line) for line in log.read_text().splitlines()]
        lines = [r for r in rows if "set its authority to localhost" in r.get("message", "")]
    checks.that(lines and all(r["level"] == "WARN" for r in lines), f"{name}: its log holds the hint", log)


def main():
    global SAMPLES
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=pathlib.Path, help="folder with the sockets")
    parser.add_argument("--samples", type=pathlib.Path, help="folder of transcripts to import")
    parser.add_argument("--describe", action="store_true", help="print the options of every method")
    given = parser.parse_args()
    SAMPLES = given.samples and given.samples.resolve()

    checks = Checks()
    paths = sorted(given.run.resolve().glob("*.sock"))
    checks.that(paths, "the folder holds sockets", given.run)
    sockets = {path.stem: Socket(path) for path in paths}
    for name, socket in sockets.items():
        checks.run(f"{name}: is described", lambda s=socket: list_and_describe(s, checks, given.describe))
        checks.run(f"{name}: answers for itself", lambda s=socket: ask_the_kit(s, checks))
        use = USES.get(name)
        if checks.that(use, f"{name}: this client knows how to use it", "add it to USES"):
            checks.run(f"{name}: is used", lambda s=socket, u=use: u(s, checks, sockets.get("bus")))
        if BESIDE.get(name) == FOLD:
            checks.run(f"{name}: its fold is asked", lambda s=socket: use_fold(s, checks, sockets["bus"]))
        checks.run(f"{name}: authority", lambda s=socket: wrong_authority(s, checks))
    for socket in sockets.values():
        socket.channel.close()
    print(f"{checks.passed} passed, {checks.failed} failed")
    return 1 if checks.failed else 0


if __name__ == "__main__":
    sys.exit(main())
