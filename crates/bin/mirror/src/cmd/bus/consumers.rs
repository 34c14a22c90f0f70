//! `mirror bus consumers`: who reads the log, and how far.

use mirror_contract::mirror::bus::v1::{
    Consumer, ConsumerConfig, CreateConsumerRequest, DeleteConsumerRequest, Filter, ListConsumersRequest,
};
use serde_json::json;

use crate::args::ConsumersVerb;
use crate::ctx::Ctx;
use crate::failure::Failure;
use crate::out::{BAD, ODD, Out, say};
use crate::text;

pub(crate) async fn run(ctx: &Ctx, out: &mut Out, verb: Option<&ConsumersVerb>) -> Result<(), Failure> {
    match verb {
        None => list(ctx, out).await,
        Some(ConsumersVerb::Create { name, subject, from }) => create(ctx, out, name, subject, *from).await,
        Some(ConsumersVerb::Delete { name }) => delete(ctx, out, name).await,
    }
}

async fn list(ctx: &Ctx, out: &mut Out) -> Result<(), Failure> {
    let answer = ctx.consumers()?.list_consumers(ListConsumersRequest::default()).await;
    let found = answer.map_err(|s| ctx.refused("bus", &s))?.into_inner().consumers;
    if out.json_wanted() {
        return found.iter().try_for_each(|consumer| out.json(&in_json(consumer)));
    }
    let rows: Vec<Vec<String>> = found.iter().map(row).collect();
    let header = ["CONSUMER", "OWNER", "SUBJECTS", "SETTLED", "BEHIND", "IN HANDS", "WAITING", "DEAD"];
    out.table(&header, &rows, |i| {
        let consumer = found.get(i)?;
        if consumer.dead > 0 { Some(BAD) } else { (consumer.waiting > 0).then_some(ODD) }
    })
}

async fn create(
    ctx: &Ctx,
    out: &mut Out,
    name: &str,
    subjects: &[String],
    from: Option<u64>,
) -> Result<(), Failure> {
    let filter = (!subjects.is_empty()).then(|| Filter { subjects: subjects.to_vec(), ..Filter::default() });
    let config = ConsumerConfig {
        name: name.to_owned(),
        filter,
        from: from.unwrap_or(0),
        ..ConsumerConfig::default()
    };
    let request = CreateConsumerRequest { config: Some(config) };
    let answer =
        ctx.consumers()?.create_consumer(request).await.map_err(|s| ctx.refused("bus", &s))?.into_inner();
    let consumer = answer.consumer.ok_or_else(|| Failure::bug("the service sent no consumer"))?;
    if out.json_wanted() {
        let mut value = in_json(&consumer);
        value["created"] = answer.created.into();
        return out.json(&value);
    }
    let note = if answer.created { "" } else { "  (was there before)" };
    out.line(&format!("{name}  from event {}{note}", consumer.settled_upto + 1))
}

async fn delete(ctx: &Ctx, out: &mut Out, name: &str) -> Result<(), Failure> {
    let request = DeleteConsumerRequest { name: name.to_owned() };
    ctx.consumers()?.delete_consumer(request).await.map_err(|s| ctx.refused("bus", &s))?;
    if out.json_wanted() {
        return out.json(&json!({"consumer": name, "deleted": true}));
    }
    say(&format!("consumer {name} is gone"));
    Ok(())
}

fn subjects(consumer: &Consumer) -> &[String] {
    let filter = consumer.config.as_ref().and_then(|config| config.filter.as_ref());
    filter.map_or(&[], |filter| &filter.subjects)
}

fn name(consumer: &Consumer) -> &str {
    consumer.config.as_ref().map_or("", |config| &config.name)
}

fn row(consumer: &Consumer) -> Vec<String> {
    let subjects = subjects(consumer).join(" ");
    let subjects = if subjects.is_empty() { "all".to_owned() } else { subjects };
    let counts = [
        consumer.settled_upto,
        consumer.behind,
        u64::from(consumer.in_hands),
        u64::from(consumer.waiting),
        consumer.dead,
    ];
    let facts = [name(consumer).to_owned(), consumer.owner.clone(), subjects];
    facts.into_iter().chain(counts.map(|n| n.to_string())).collect()
}

fn in_json(consumer: &Consumer) -> serde_json::Value {
    let config = consumer.config.clone().unwrap_or_default();
    json!({
        "consumer": config.name,
        "owner": consumer.owner,
        "subjects": subjects(consumer),
        "from": config.from,
        "max_attempts": config.max_attempts,
        "max_in_hands": config.max_in_hands,
        "settled_upto": consumer.settled_upto,
        "delivered_upto": consumer.delivered_upto,
        "behind": consumer.behind,
        "in_hands": consumer.in_hands,
        "waiting": consumer.waiting,
        "dead": consumer.dead,
        "created": consumer.created.as_ref().and_then(text::rfc3339),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_consumer_is_shown_as_a_row_and_as_json() {
        let filter = Some(Filter { subjects: vec!["local.>".into()], ..Filter::default() });
        let config = Some(ConsumerConfig { name: "c".into(), filter, max_attempts: 5, ..Default::default() });
        let consumer = Consumer {
            config,
            owner: "local".into(),
            settled_upto: 7,
            behind: 2,
            waiting: 1,
            ..Consumer::default()
        };
        assert_eq!(row(&consumer), ["c", "local", "local.>", "7", "2", "0", "1", "0"]);
        assert_eq!(row(&Consumer { config: None, ..consumer.clone() })[2], "all");
        let value = in_json(&consumer);
        assert_eq!((value["consumer"].as_str(), value["settled_upto"].as_u64()), (Some("c"), Some(7)));
        assert_eq!(value["subjects"], json!(["local.>"]));
    }
}
