//! `mirror pulse`: what is wrong, why, what is done about it, and when.

use clap::builder::styling::Style;
use mirror_clock::{Clock as _, SystemClock};
use mirror_contract::mirror::pulse::v1::{
    GetPulseRequest, Health, Incident, ListIncidentsRequest, Pulse, PutMaintenanceRequest, RunSweepRequest,
    Target, WatchPulseRequest,
};
use serde_json::json;

use crate::args::{PulseArgs, PulseVerb};
use crate::client::{Patience, may_come_back};
use crate::ctx::Ctx;
use crate::failure::{EXIT_AWAY, Failure};
use crate::out::{BAD, DIM, GOOD, ODD, Out, say};
use crate::text::{self, one_line};

pub(crate) async fn run(ctx: &Ctx, out: &mut Out, args: &PulseArgs) -> Result<(), Failure> {
    if let Some(PulseVerb::Maintenance { duration, reason }) = &args.verb {
        return maintenance(ctx, out, duration, reason).await;
    }
    if args.history {
        return history(ctx, out).await;
    }
    if args.follow {
        return follow(ctx, out).await;
    }
    let mut client = ctx.pulse()?;
    let answer = if args.sweep {
        client.run_sweep(RunSweepRequest {}).await.map(|a| a.into_inner().pulse)
    } else {
        client.get_pulse(GetPulseRequest {}).await.map(|a| a.into_inner().pulse)
    };
    let pulse = answer.map_err(|s| ctx.refused("pulse", &s))?;
    let pulse = pulse.ok_or_else(|| Failure::bug("the service sent no pulse"))?;
    if out.json_wanted() {
        out.json(&pulse_json(&pulse))?;
    } else {
        show(out, &pulse)?;
    }
    if is_well(pulse.verdict()) { Ok(()) } else { Err(Failure::Said(EXIT_AWAY)) }
}

async fn maintenance(ctx: &Ctx, out: &mut Out, duration: &str, reason: &[String]) -> Result<(), Failure> {
    let for_ms = if duration == "off" { 0 } else { text::span_ms(duration).map_err(Failure::input)? };
    let request = PutMaintenanceRequest { for_ms, reason: reason.join(" ") };
    let answer = ctx.pulse()?.put_maintenance(request).await.map_err(|s| ctx.refused("pulse", &s))?;
    let until = answer.into_inner().until;
    if out.json_wanted() {
        return out.json(&json!({"maintenance_until": until.as_ref().and_then(text::rfc3339)}));
    }
    say(&match until {
        Some(until) => format!("maintenance until {}", text::local_time(text::millis(&until))),
        None => "maintenance has ended".to_owned(),
    });
    Ok(())
}

async fn history(ctx: &Ctx, out: &mut Out) -> Result<(), Failure> {
    let answer = ctx.pulse()?.list_incidents(ListIncidentsRequest { limit: 0 }).await;
    let incidents = answer.map_err(|s| ctx.refused("pulse", &s))?.into_inner().incidents;
    if out.json_wanted() {
        return incidents.iter().try_for_each(|incident| out.json(&incident_json(incident)));
    }
    if incidents.is_empty() {
        say("no incident is on record");
    }
    let now = SystemClock.wall_ms();
    for (i, incident) in incidents.iter().enumerate() {
        if i > 0 {
            out.line("")?;
        }
        incident_lines(incident, now).iter().try_for_each(|line| out.line(line))?;
    }
    Ok(())
}

async fn follow(ctx: &Ctx, out: &mut Out) -> Result<(), Failure> {
    let mut client = ctx.pulse()?;
    let mut patience = Patience::new("pulse");
    let mut shown: Option<Vec<String>> = None;
    let mut first = true;
    loop {
        let mut stream = match client.watch_pulse(WatchPulseRequest {}).await {
            Ok(answer) => answer.into_inner(),
            Err(status) if !first && may_come_back(&status) => {
                patience.wait().await;
                continue;
            }
            Err(status) => return Err(ctx.refused("pulse", &status)),
        };
        first = false;
        loop {
            match stream.message().await {
                Ok(Some(change)) => {
                    patience.answered();
                    let Some(pulse) = change.pulse else { continue };
                    changed(out, &pulse, &mut shown)?;
                    out.flush()?;
                }
                Ok(None) => break,
                Err(status) if may_come_back(&status) => break,
                Err(status) => return Err(ctx.refused("pulse", &status)),
            }
        }
        patience.wait().await;
    }
}

/// Shows the verdict and the incidents, unless they are what was shown last.
fn changed(out: &mut Out, pulse: &Pulse, shown: &mut Option<Vec<String>>) -> Result<(), Failure> {
    if out.json_wanted() {
        return out.json(&pulse_json(pulse));
    }
    let now = SystemClock.wall_ms();
    let news: Vec<String> =
        std::iter::once(verdict(pulse)).chain(pulse.incidents.iter().flat_map(incident_facts)).collect();
    if shown.as_ref() == Some(&news) {
        return Ok(());
    }
    *shown = Some(news);
    let at = text::local_time(i64::try_from(now).unwrap_or(i64::MAX));
    out.line(&format!("{}  {}", out.paint(DIM, &at), out.paint(style(pulse.verdict()), &verdict(pulse))))?;
    for incident in &pulse.incidents {
        incident_lines(incident, now).iter().try_for_each(|line| out.line(&format!("  {line}")))?;
    }
    Ok(())
}

fn show(out: &mut Out, pulse: &Pulse) -> Result<(), Failure> {
    let now = SystemClock.wall_ms();
    out.line(&out.paint(style(pulse.verdict()), &verdict(pulse)))?;
    notes(pulse, now).iter().try_for_each(|line| out.line(line))?;
    for incident in &pulse.incidents {
        out.line("")?;
        let lines = incident_lines(incident, now);
        for (i, line) in lines.iter().enumerate() {
            out.line(&if i == 0 { out.paint(BAD, line) } else { line.clone() })?;
        }
    }
    out.line("")?;
    let rows: Vec<Vec<String>> = pulse.targets.iter().map(row).collect();
    let header = ["TARGET", "CRITICALITY", "HEALTH", "HISTORY", "DETAIL"];
    out.table(&header, &rows, |i| match pulse.targets.get(i)?.health() {
        Health::Ok => None,
        health => Some(style(health)),
    })
}

fn is_well(verdict: Health) -> bool {
    matches!(verdict, Health::Ok | Health::Suspect | Health::Recovering | Health::Maintenance)
}

fn style(health: Health) -> Style {
    match health {
        Health::Ok => GOOD,
        Health::Failed | Health::Quarantined => BAD,
        Health::Maintenance | Health::Shadowed => DIM,
        _ => ODD,
    }
}

fn name(health: Health) -> &'static str {
    match health {
        Health::Unspecified | Health::Unknown => "unknown",
        Health::Ok => "ok",
        Health::Suspect => "suspect",
        Health::Failed => "failed",
        Health::Healing => "healing",
        Health::Recovering => "recovering",
        Health::Flapping => "flapping",
        Health::Quarantined => "quarantined",
        Health::Maintenance => "maintenance",
        Health::Shadowed => "shadowed",
    }
}

fn verdict(pulse: &Pulse) -> String {
    format!("{}: {}", name(pulse.verdict()), one_line(&pulse.summary, 300))
}

/// Returns what else holds: maintenance, observing, sweeps.
fn notes(pulse: &Pulse, now: u64) -> Vec<String> {
    let mut notes = Vec::new();
    if let Some(until) = &pulse.maintenance_until {
        notes.push(format!("maintenance: no remedies for {}", left(until, now)));
    }
    if let Some(until) = &pulse.observing_until {
        let why = one_line(&pulse.observing_reason, 200);
        notes.push(format!("observing only for {}: {why}", left(until, now)));
    }
    let swept = match &pulse.swept {
        Some(at) => format!("swept {} ago", text::duration(now.saturating_sub(ms(at)))),
        None => "not swept yet".to_owned(),
    };
    let next = pulse.next_sweep.as_ref().map(|at| format!(", next sweep in {}", left(at, now)));
    notes.push(format!("{swept}{}", next.unwrap_or_default()));
    notes
}

fn ms(at: &prost_types::Timestamp) -> u64 {
    u64::try_from(text::millis(at)).unwrap_or(0)
}

fn left(until: &prost_types::Timestamp, now: u64) -> String {
    text::duration(ms(until).saturating_sub(now))
}

/// Returns what does not change by itself as time goes by.
fn incident_facts(incident: &Incident) -> Vec<String> {
    let detail = one_line(&incident.detail, 400);
    let mut lines =
        vec![format!("{} {}: {detail}", one_line(&incident.root, 60), one_line(&incident.cause, 60))];
    if !incident.shadowed.is_empty() {
        let names: Vec<String> = incident.shadowed.iter().map(|name| one_line(name, 60)).collect();
        lines.push(format!("  in its shadow: {}", names.join(", ")));
    }
    lines.extend(incident.actions.iter().map(|action| format!("  done: {}", one_line(action, 300))));
    lines
}

fn incident_lines(incident: &Incident, now: u64) -> Vec<String> {
    let mut lines = incident_facts(incident);
    if incident.recovered.is_none() {
        let remedy = one_line(&incident.remedy, 60);
        lines.push(match (&incident.next_action, remedy.as_str()) {
            (_, "") => "  next: nothing that pulse may do; it needs a person".to_owned(),
            (Some(at), _) if ms(at) > now => format!("  next: {remedy} in {}", left(at, now)),
            _ => format!("  next: {remedy}, under way"),
        });
    }
    let began = incident.began.as_ref().or(incident.detected.as_ref()).map(ms);
    lines.extend(began.map(|began| {
        let since = text::local_time(i64::try_from(began).unwrap_or(i64::MAX));
        match &incident.recovered {
            Some(at) => format!("  since {since}, for {}", text::duration(ms(at).saturating_sub(began))),
            None => format!("  since {since}, {} by now", text::duration(now.saturating_sub(began))),
        }
    }));
    lines
}

fn row(target: &Target) -> Vec<String> {
    let health = match target.shadowed_by.as_str() {
        "" => name(target.health()).to_owned(),
        by => format!("{} by {}", name(target.health()), one_line(by, 60)),
    };
    vec![
        one_line(&target.name, 60),
        one_line(&target.criticality, 20),
        health,
        one_line(&target.history, 21),
        one_line(&target.detail, 200),
    ]
}

fn moment(at: Option<&prost_types::Timestamp>) -> Option<String> {
    at.and_then(text::rfc3339)
}

fn pulse_json(pulse: &Pulse) -> serde_json::Value {
    let targets = pulse.targets.iter().map(|target| {
        json!({
            "name": target.name,
            "criticality": target.criticality,
            "health": name(target.health()),
            "detail": target.detail,
            "seen": moment(target.seen.as_ref()),
            "shadowed_by": target.shadowed_by,
            "history": target.history,
        })
    });
    json!({
        "verdict": name(pulse.verdict()),
        "summary": pulse.summary,
        "incidents": pulse.incidents.iter().map(incident_json).collect::<Vec<_>>(),
        "targets": targets.collect::<Vec<_>>(),
        "swept": moment(pulse.swept.as_ref()),
        "next_sweep": moment(pulse.next_sweep.as_ref()),
        "maintenance_until": moment(pulse.maintenance_until.as_ref()),
        "observing_until": moment(pulse.observing_until.as_ref()),
        "observing_reason": pulse.observing_reason,
    })
}

fn incident_json(incident: &Incident) -> serde_json::Value {
    json!({
        "id": incident.id,
        "cause": incident.cause,
        "detail": incident.detail,
        "root": incident.root,
        "shadowed": incident.shadowed,
        "remedy": incident.remedy,
        "next_action": moment(incident.next_action.as_ref()),
        "began": moment(incident.began.as_ref()),
        "detected": moment(incident.detected.as_ref()),
        "recovered": moment(incident.recovered.as_ref()),
        "actions": incident.actions,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Option<prost_types::Timestamp> {
        Some(prost_types::Timestamp { seconds, nanos: 0 })
    }

    fn incident() -> Incident {
        Incident {
            cause: "crashed".into(),
            detail: "it ended with code 70".into(),
            root: "bus".into(),
            shadowed: vec!["changelog".into(), "notify".into()],
            remedy: "restart".into(),
            next_action: at(1_012),
            detected: at(995),
            actions: vec!["restart bus: not healed, still away".into()],
            ..Incident::default()
        }
    }

    #[test]
    fn an_incident_says_cause_shadow_action_and_countdown() {
        let lines = incident_lines(&incident(), 1_000_000);
        assert_eq!(
            lines[..4],
            [
                "bus crashed: it ended with code 70",
                "  in its shadow: changelog, notify",
                "  done: restart bus: not healed, still away",
                "  next: restart in 12 s"
            ]
        );
        assert!(lines[4].starts_with("  since ") && lines[4].ends_with(", 5 s by now"), "{}", lines[4]);
        assert_eq!(incident_lines(&incident(), 1_012_000)[3], "  next: restart, under way");
        let hopeless = Incident { remedy: String::new(), ..incident() };
        assert!(incident_lines(&hopeless, 0)[3].ends_with("it needs a person"));
        let over = Incident { recovered: at(1_055), ..incident() };
        let lines = incident_lines(&over, 9_000_000);
        assert!(lines[3].ends_with(", for 1 min 0 s") && lines.len() == 4, "{lines:?}");
    }

    #[test]
    fn a_countdown_alone_is_no_news() {
        let later = Incident { next_action: at(2_000), ..incident() };
        assert_eq!(incident_facts(&incident()), incident_facts(&later));
    }

    #[test]
    fn the_verdict_comes_with_what_holds_back_remedies() {
        let pulse = Pulse {
            verdict: Health::Healing.into(),
            summary: "bus crashed\u{7}; restart".into(),
            maintenance_until: at(1_060),
            observing_until: at(1_030),
            observing_reason: "the machine woke up".into(),
            swept: at(940),
            next_sweep: at(1_240),
            ..Pulse::default()
        };
        assert_eq!(verdict(&pulse), "healing: bus crashed; restart");
        assert_eq!(
            notes(&pulse, 1_000_000),
            [
                "maintenance: no remedies for 1 min 0 s",
                "observing only for 30 s: the machine woke up",
                "swept 1 min 0 s ago, next sweep in 4 min 0 s"
            ]
        );
        assert!(!is_well(pulse.verdict()) && is_well(Health::Ok) && !is_well(Health::Unknown));
        let target =
            Target { health: Health::Shadowed.into(), shadowed_by: "bus".into(), ..Target::default() };
        assert_eq!(row(&target)[2], "shadowed by bus");
    }
}
