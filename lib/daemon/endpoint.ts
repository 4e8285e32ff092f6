/**
 * Endpoints: where a daemon listens, as people write them.
 *
 *     unix:PATH?mode=0660      a unix socket; mode 0600 unless told
 *     tcp:HOST:PORT            tcp:10809 and tcp::10809 are the loopback address; [::1] for IPv6
 *     systemd:  systemd:NAME   sockets that systemd has opened (FileDescriptorName=NAME)
 *
 * @module
 */
import { isIPv4, isIPv6 } from "node:net";
import { resolve } from "node:path";
import {
  countOption,
  type OptionSchema,
  optionSchema,
  parseOptions,
  textOption,
} from "../block/options.ts";
import { parseSpec, type Spec } from "../block/spec.ts";
import { type Place, UsageError } from "../block/usage_error.ts";
import { formatNbdUri, NBD_PORT, type NbdAddress } from "../nbd/uri.ts";
import { UNIX_PATH_BYTES_MAX } from "./limits.ts";

/** A unix socket. */
export interface UnixEndpoint {
  /** What it is. */
  readonly kind: "unix";
  /** The path, at most 107 bytes. */
  readonly path: string;
  /** Permission bits of the socket. */
  readonly mode: number;
}

/** A TCP port. */
export interface TcpEndpoint {
  /** What it is. */
  readonly kind: "tcp";
  /** A host name, an IPv4 or an IPv6 address without brackets. */
  readonly host: string;
  /** 1 to 65535; 0 lets the system choose. */
  readonly port: number;
}

/** Sockets that were handed over at the start (LISTEN_FDS). */
export interface SystemdEndpoint {
  /** What it is. */
  readonly kind: "systemd";
  /** Only those of this name (LISTEN_FDNAMES); null for all. */
  readonly name: string | null;
}

/** Where a daemon listens. */
export type Endpoint = UnixEndpoint | TcpEndpoint | SystemdEndpoint;

/** Permission bits of a unix socket unless told otherwise. */
const MODE_DEFAULT = 0o600;
/** Where TCP endpoints listen unless told otherwise. */
const LOOPBACK = "127.0.0.1";

const unixOptions: OptionSchema<{ mode: string }> = optionSchema({
  mode: textOption({
    summary: "permission bits in octal",
    default: MODE_DEFAULT.toString(8).padStart(4, "0"),
  }),
});

const noOptions: OptionSchema<Record<never, never>> = optionSchema({});

const FORMS = "unix:PATH, tcp:HOST:PORT or systemd:";

function refuse(text: string, reason: string, place: Place): UsageError {
  return new UsageError(`Cannot listen on "${text}": ${reason}`, place);
}

/**
 * Parses an endpoint. `origin` says where the text is from, if from a file. Throws UsageError with
 * the place of what is wrong.
 *
 * @example
 * ```ts
 * import { parseEndpoint } from "./endpoint.ts";
 * const endpoint = parseEndpoint("tcp:10809");
 * if (endpoint.kind !== "tcp" || endpoint.host !== "127.0.0.1") throw new Error("not loopback");
 * ```
 */
export function parseEndpoint(text: string, origin?: string): Endpoint {
  const from = origin === undefined ? {} : { origin };
  if (!/^[A-Za-z][A-Za-z0-9+.-]*:/.test(text)) {
    throw refuse(text, hintFor(text), { ...from, text, start: 0, end: text.length });
  }
  const spec = parseSpec(text, from);
  if (spec.uri) throw refuse(text, `an endpoint is ${FORMS}, not a URI`, spec.kindPlace);
  switch (spec.kind) {
    case "unix":
      return parseUnix(text, spec);
    case "tcp":
      optionsOf(spec, noOptions);
      return { kind: "tcp", ...parseHostPort(text, spec) };
    case "systemd":
      optionsOf(spec, noOptions);
      return { kind: "systemd", name: spec.argument === "" ? null : spec.argument };
    default:
      throw refuse(text, `there is no "${spec.kind}:"; write ${FORMS}`, spec.kindPlace);
  }
}

/** What was probably meant by a text without a kind. */
function hintFor(text: string): string {
  if (text === "") return `it is empty; write ${FORMS}`;
  if (/^[\d.]*:?\d+$/.test(text) || text.startsWith("[")) return `write tcp:${text}`;
  return `write unix:${text} for a socket of that path`;
}

function optionsOf<O>(spec: Spec, schema: OptionSchema<O>): O {
  const values = new Map([...spec.options].map(([name, option]) => [name, option.value]));
  return parseOptions(schema, values, {
    action: `listen on "${spec.text}"`,
    place: (key, part) => {
      const option = spec.options.get(key);
      return (part === "name" ? option?.namePlace : option?.valuePlace) ?? null;
    },
  });
}

function parseUnix(text: string, spec: Spec): UnixEndpoint {
  const { argument: path, argumentPlace } = spec;
  if (path === "") throw refuse(text, "the path of the socket is missing", argumentPlace);
  if (path.includes("\0")) throw refuse(text, "a path holds no NUL character", argumentPlace);
  if (new TextEncoder().encode(path).length > UNIX_PATH_BYTES_MAX) {
    const reason = `the path of a socket has at most ${UNIX_PATH_BYTES_MAX} bytes`;
    throw refuse(text, reason, argumentPlace);
  }
  const { mode } = optionsOf(spec, unixOptions);
  if (!/^0?[0-7]{3}$/.test(mode)) {
    const place = spec.options.get("mode")?.valuePlace ?? argumentPlace;
    throw refuse(text, `"${mode}" is no mode in octal, such as 0660`, place);
  }
  return { kind: "unix", path, mode: Number.parseInt(mode, 8) };
}

const portOption = countOption({ summary: "port", max: 65_535 });
const portSchema: OptionSchema<{ port: number }> = optionSchema({ port: portOption });

function parseHostPort(text: string, spec: Spec): { host: string; port: number } {
  const { argument, argumentPlace } = spec;
  const match = /^(?:\[(?<v6>[^\]]*)\]|(?<name>[^:[\]]*))(?::(?<port>[^:]*))?$/.exec(argument);
  if (match?.groups === undefined) {
    const hint = isIPv6(argument) ? `write tcp:[${argument}]:${NBD_PORT}` : "write tcp:HOST:PORT";
    throw refuse(text, `it is no host and port; ${hint}`, argumentPlace);
  }
  const { v6, name = "", port } = match.groups;
  if (argument === "") throw refuse(text, "the port is missing; write tcp:10809", argumentPlace);
  if (v6 !== undefined) {
    if (!isIPv6(v6)) throw refuse(text, `"${v6}" is no IPv6 address`, argumentPlace);
    return { host: v6, port: port === undefined ? NBD_PORT : parsePort(text, port, argumentPlace) };
  }
  if (port === undefined && /^\d+$/.test(name)) {
    return { host: LOOPBACK, port: parsePort(text, name, argumentPlace) };
  }
  checkHost(text, name, argumentPlace);
  return {
    host: name === "" ? LOOPBACK : name,
    port: port === undefined ? NBD_PORT : parsePort(text, port, argumentPlace),
  };
}

function checkHost(text: string, host: string, place: Place): void {
  if (host === "*") {
    throw refuse(text, "for all addresses write tcp:0.0.0.0:PORT or tcp:[::]:PORT", place);
  }
  const dotted = /^[\d.]+$/.test(host);
  if (host !== "" && (dotted ? !isIPv4(host) : !/^[A-Za-z0-9_]([A-Za-z0-9._-]*)$/.test(host))) {
    throw refuse(text, `"${host}" is no host name or address`, place);
  }
}

function parsePort(text: string, port: string, place: Place): number {
  const at = place.text.lastIndexOf(port);
  return parseOptions(portSchema, new Map([["port", port]]), {
    action: `listen on "${text}"`,
    argument: "port",
    place: () => ({ ...place, start: at, end: at + port.length }),
  }).port;
}

/**
 * Parses where metrics are served: unix:PATH or tcp:HOST:PORT, since there is no port that they have by
 * custom. Throws UsageError.
 */
export function parseMetricsEndpoint(text: string, origin?: string): UnixEndpoint | TcpEndpoint {
  const endpoint = parseEndpoint(text, origin);
  const place: Place = {
    ...(origin === undefined ? {} : { origin }),
    text,
    start: 0,
    end: text.length,
  };
  if (endpoint.kind === "systemd") {
    throw refuse(text, "metrics are served on unix:PATH or tcp:HOST:PORT", place);
  }
  if (endpoint.kind === "tcp" && !/^tcp:(?:.*:)?\d+$/.test(text)) {
    throw refuse(text, "the port is missing; write tcp:HOST:PORT", place);
  }
  return endpoint;
}

/** Writes an endpoint as `parseEndpoint` reads it. */
export function formatEndpoint(endpoint: Endpoint): string {
  switch (endpoint.kind) {
    case "unix": {
      const path = endpoint.path.replace(/[%?]/g, (char) => encodeURIComponent(char));
      if (endpoint.mode === MODE_DEFAULT) return `unix:${path}`;
      return `unix:${path}?mode=${endpoint.mode.toString(8).padStart(4, "0")}`;
    }
    case "tcp":
      return `tcp:${isIPv6(endpoint.host) ? `[${endpoint.host}]` : endpoint.host}:${endpoint.port}`;
    case "systemd":
      return `systemd:${endpoint.name ?? ""}`;
  }
}

/**
 * The NBD URI by which a client on this machine reaches an export: the name "" is the default
 * export. A listener on all addresses is reached through the loopback one, a relative path from here.
 */
export function nbdUriOf(address: NbdAddress, exportName: string, tls: boolean): string {
  const reached: NbdAddress = address.kind === "tcp"
    ? { ...address, host: reachable(address.host) }
    : { ...address, path: address.path.startsWith("\0") ? address.path : resolve(address.path) };
  return formatNbdUri({ address: reached, tls, exportName, tlsVerifyPeer: true });
}

function reachable(host: string): string {
  if (host === "0.0.0.0") return LOOPBACK;
  return host === "::" ? "::1" : host;
}
