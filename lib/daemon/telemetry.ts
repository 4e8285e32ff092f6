/**
 * The figures of targets for OpenTelemetry, through what Deno has built in: with OTEL_DENO=true in the
 * environment Deno sends them to a collector by itself, as OTEL_EXPORTER_OTLP_ENDPOINT and the other
 * variables of OpenTelemetry say. Without that nothing is made here. Names follow the conventions of
 * OpenTelemetry: dots, units in UCUM.
 *
 * @module
 */
import { OPERATIONS } from "../block/request.ts";
import type { MeasuredDaemon } from "./metrics.ts";

/** Takes the values of one figure. */
interface Observer {
  observe(value: number, attributes: Readonly<Record<string, string>>): void;
}

type Observe = (observer: Observer) => void;

/** A figure that is read when it is sent. */
interface Observable {
  addCallback(callback: Observe): void;
  removeCallback(callback: Observe): void;
}

interface Settings {
  readonly unit: string;
  readonly description: string;
}

/** What is used of a Meter of the OpenTelemetry API. */
interface Meter {
  createObservableCounter(name: string, settings: Settings): Observable;
  createObservableGauge(name: string, settings: Settings): Observable;
}

/** True if Deno was started with OpenTelemetry switched on. */
export function telemetryIsOn(env: (name: string) => string | undefined): boolean {
  return env("OTEL_DENO") === "true" || env("OTEL_DENO") === "1";
}

/** Lets a daemon be observed until what is returned is called. */
export function startTelemetry(daemon: MeasuredDaemon): () => void {
  const meter: Meter = Deno.telemetry.meterProvider.getMeter("dmu", daemon.version);
  const ends: (() => void)[] = [];
  const observe = (observable: Observable, callback: Observe): void => {
    observable.addCallback(callback);
    ends.push(() => observable.removeCallback(callback));
  };
  const counter = (
    name: string,
    unit: string,
    description: string,
    of: (
      counters: { readonly count: number; readonly errors: number; readonly bytes: number },
    ) => number,
  ): void =>
    observe(meter.createObservableCounter(name, { unit, description }), (observer) => {
      for (const { name: target, device } of daemon.targets) {
        for (const operation of device === null ? [] : OPERATIONS) {
          const counters = device?.statistics[operation];
          if (counters === undefined || counters.latency.count === 0) continue;
          const { errors, bytes, latency: { count } } = counters;
          observer.observe(of({ count, errors, bytes }), { target, operation });
        }
      }
    });
  counter("dmu.operations", "{operation}", "Operations that are done", ({ count }) => count);
  counter("dmu.operation.errors", "{operation}", "Operations that failed", ({ errors }) => errors);
  counter("dmu.operation.io", "By", "Bytes of operations that succeeded", ({ bytes }) => bytes);
  const inFlight = { unit: "{operation}", description: "Operations under way" };
  observe(meter.createObservableGauge("dmu.target.in_flight", inFlight), (observer) => {
    for (const { name: target, device } of daemon.targets) {
      if (device !== null) observer.observe(device.inFlight, { target });
    }
  });
  const connections = { unit: "{connection}", description: "NBD connections" };
  observe(meter.createObservableGauge("dmu.connections", connections), (observer) => {
    observer.observe(daemon.connections.count, {});
  });
  return () => {
    for (const end of ends) end();
  };
}
