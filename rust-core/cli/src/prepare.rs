//! From a configuration file to a plan that can run: read, ask Python for the functions, let the engine build.

use std::net::SocketAddr;

use ringmill_engine::Plan;
use ringmill_engine::describe::{DescribeError, Description, FunctionRef, Role, describe};
use ringmill_engine::plan::{NodeKind, PipelineSpec, SinkSpec, SourceConnector, SourceSpec};

use crate::arguments::ConfigArguments;
use crate::config::guarantee::refusal;
use crate::config::mistake::Mistake;
use crate::config::{self, Config};
use crate::failure::Failure;
use crate::machine::Machine;

/// Reads the file, imports its functions and builds the plan.
///
/// # Errors
/// Every mistake that was found, or why Python could not be asked.
pub fn prepare(arguments: &ConfigArguments, machine: &Machine) -> Result<Plan, Failure> {
    prepare_served(arguments, machine).map(|(plan, _)| plan)
}

/// The same, and where its retained results are served.
///
/// # Errors
/// As for [`prepare`].
pub fn prepare_served(arguments: &ConfigArguments, machine: &Machine) -> Result<(Plan, Option<SocketAddr>), Failure> {
    prepare_adjusted(arguments, machine, |_| {})
}

/// The same for a pipeline that is not run quite as it is written.
///
/// # Errors
/// As for [`prepare`].
pub fn prepare_adjusted(
    arguments: &ConfigArguments,
    machine: &Machine,
    adjust: impl FnOnce(&mut PipelineSpec),
) -> Result<(Plan, Option<SocketAddr>), Failure> {
    let refused = |mistakes| Failure::Configuration { mistakes, details: Vec::new() };
    let mut config = config::load(&arguments.file, &arguments.overrides, machine).map_err(refused)?;
    describe_functions(&mut config)?;
    let mut pipeline = config.pipeline.clone();
    adjust(&mut pipeline);
    let nodes = config.nodes.clone();
    let plan = Plan::build(pipeline, nodes).map_err(|errors| refused(config.locate(errors)))?;
    Ok((plan, config.serve))
}

fn describe_functions(config: &mut Config) -> Result<(), Failure> {
    let Some(python) = config.python.clone() else { return Ok(()) };
    let functions: Vec<FunctionRef> = config
        .nodes
        .iter()
        .filter_map(|node| match &node.kind {
            NodeKind::Udf(udf) => Some(FunctionRef {
                step: node.name.clone(),
                role: Role::Udf,
                function: udf.function.clone(),
                directory: udf.directory.clone(),
                options: serde_json::Value::Null,
            }),
            NodeKind::Source(SourceSpec { connector: SourceConnector::Python(source), .. }) => Some(FunctionRef {
                step: node.name.clone(),
                role: Role::Source,
                function: source.feed.origin.clone(),
                directory: source.directory.clone(),
                options: source.options.clone(),
            }),
            NodeKind::Sink(SinkSpec::Python(sink)) => Some(FunctionRef {
                step: node.name.clone(),
                role: Role::Sink,
                function: sink.outlet.origin.clone(),
                directory: sink.directory.clone(),
                options: sink.options.clone(),
            }),
            _ => None,
        })
        .collect();
    let (mut mistakes, demanded) = (Vec::new(), config.demanded);
    let mut details = Vec::new();
    for (step, answer) in describe(&python, &functions)? {
        let node = config.nodes.iter_mut().find(|node| node.name == step);
        match (answer, node.map(|node| &mut node.kind)) {
            (Ok(Description::Udf(description)), Some(NodeKind::Udf(udf))) => udf.description = description,
            (
                Ok(Description::Class(description)),
                Some(NodeKind::Source(SourceSpec { connector: SourceConnector::Python(source), .. })),
            ) => {
                source.describe(description);
                let promise = SourceConnector::Python(source.clone()).promise();
                if let Some(demanded) = demanded.filter(|demanded| promise < *demanded) {
                    mistakes.push(refusal(config.mistake_at(&step, "class", ""), demanded, promise));
                }
            }
            (Err(error), _) => mistakes.push(import_mistake(config, &step, error, &mut details)),
            (Ok(_), _) => {}
        }
    }
    if mistakes.is_empty() {
        return Ok(());
    }
    Err(Failure::Configuration { mistakes: config.mistakes(mistakes), details })
}

fn import_mistake(config: &Config, step: &str, error: DescribeError, details: &mut Vec<String>) -> Mistake {
    let is_class = config.nodes.iter().any(|node| node.name == step && !matches!(node.kind, NodeKind::Udf(_)));
    let key = if is_class { "class" } else { "function" };
    // The package's own errors say all there is to say; a traceback into the package would only bury it.
    if let Some((_, message)) = error.message.strip_prefix("ringmill.errors.").and_then(|text| text.split_once(": ")) {
        return config.mistake_at(step, key, message);
    }
    let hint = match (&config.python, error.message.starts_with("ModuleNotFoundError")) {
        (Some(python), true) => Some(format!("install it for the pipeline's interpreter, {}", python.display())),
        _ => error.traceback.is_some().then(|| "what Python said stands above".to_owned()),
    };
    details.extend(error.traceback);
    config.mistake_at(step, key, error.message).hint_maybe(hint)
}
