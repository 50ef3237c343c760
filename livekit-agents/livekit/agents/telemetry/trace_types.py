"""Names of the attributes, events and metrics of traces.

`lk.*` names are this framework's own; those with a segment `pii` carry personal data. The others
follow the OpenTelemetry semantic conventions, or a backend that reads them.
"""

from __future__ import annotations

from urllib.parse import urlsplit

# The job, its room and who is in it
ATTR_AGENT_NAME = "lk.agent_name"
ATTR_CALLBACK_NAME = "lk.callback.name"
ATTR_CLOUD_AGENT_ID = "lk.cloud_agent_id"
ATTR_CONNECTION_STATE = "lk.connection_state"
ATTR_DEPLOYMENT_ID = "lk.deployment_id"
ATTR_DISCONNECT_REASON = "lk.disconnect_reason"
ATTR_DISPATCH_ID = "lk.dispatch_id"
ATTR_FIRST_FRAME_DELAY = "lk.first_frame_delay"
ATTR_JOB_ACCEPT_LATENCY = "lk.job.accept_latency"
ATTR_JOB_AGENT_ID = "lk.job.agent_id"
ATTR_JOB_ASSIGNMENT_LATENCY = "lk.job.assignment_latency"
ATTR_JOB_DISPATCH_LATENCY = "lk.job.dispatch_latency"
ATTR_JOB_ENTRYPOINT_LATENCY = "lk.job.entrypoint_latency"
ATTR_JOB_LAUNCH_LATENCY = "lk.job.launch_latency"
ATTR_WORKER_ID = "lk.job.worker_id"
ATTR_JOB_ID = "lk.job_id"
ATTR_PARTICIPANT_ID = "lk.participant_id"
ATTR_PARTICIPANT_KIND = "lk.participant_kind"
ATTR_PRE_CONNECT_AUDIO_DURATION = "lk.pre_connect_audio.duration"
ATTR_ROOM_AUTO_SUBSCRIBE = "lk.room.auto_subscribe"
ATTR_ROOM_E2EE = "lk.room.e2ee"
ATTR_ROOM_REMOTE_PARTICIPANT_COUNT = "lk.room.remote_participant_count"
ATTR_ROOM_IO_PARTICIPANT_FILTER = "lk.room_io.participant_filter"
ATTR_ROOM_SID = "lk.room_sid"
ATTR_RPC_CALLER_IDENTITY = "lk.rpc.caller_identity"
ATTR_RPC_DESTINATION_IDENTITY = "lk.rpc.destination_identity"
ATTR_RPC_ERROR_CODE = "lk.rpc.error_code"
ATTR_RPC_HANDLER_REGISTERED = "lk.rpc.handler_registered"
ATTR_RPC_PAYLOAD_SIZE = "lk.rpc.payload_size"
ATTR_RPC_REQUEST_ID = "lk.rpc.request_id"
ATTR_RPC_RESPONSE_SIZE = "lk.rpc.response_size"
ATTR_RPC_RESPONSE_TIMEOUT = "lk.rpc.response_timeout"
ATTR_SHUTDOWN_REASON = "lk.shutdown.reason"
ATTR_SHUTDOWN_USER_INITIATED = "lk.shutdown.user_initiated"
ATTR_SIP_PREFIX = "lk.sip."
ATTR_TRACK_SID = "lk.track_sid"
ATTR_TRACK_SOURCE = "lk.track_source"

# The session: turns, speech, models and tools
ATTR_AGENT_LABEL = "lk.agent_label"
ATTR_AMD_CATEGORY = "lk.amd.category"
ATTR_AMD_DELAY = "lk.amd.delay"
ATTR_AMD_REASON = "lk.amd.reason"
ATTR_AMD_SPEECH_DURATION = "lk.amd.speech_duration"
ATTR_CLOSE_DRAIN = "lk.close.drain"
ATTR_CLOSE_REASON = "lk.close_reason"
ATTR_E2E_LATENCY = "lk.e2e_latency"
ATTR_END_OF_TURN_DELAY = "lk.end_of_turn_delay"
ATTR_EOU_DETECTION_DELAY = "lk.eou.detection_delay"
ATTR_EOU_DELAY = "lk.eou.endpointing_delay"
ATTR_EOU_FROM_CACHE = "lk.eou.from_cache"
ATTR_EOU_LANGUAGE = "lk.eou.language"
ATTR_EOU_NOT_COMMITTED_COUNT = "lk.eou.not_committed_count"
ATTR_EOU_OUTCOME = "lk.eou.outcome"
ATTR_EOU_PROBABILITY = "lk.eou.probability"
ATTR_EOU_REARM_COUNT = "lk.eou.rearm_count"
ATTR_EOU_RESUME_COUNT = "lk.eou.resume_count"
ATTR_EOU_SOURCE = "lk.eou.source"
ATTR_EOU_UNLIKELY_THRESHOLD = "lk.eou.unlikely_threshold"
ATTR_EOU_WAIT_DURATION = "lk.eou.wait_duration"
ATTR_FALLBACK_INDEX = "lk.fallback.index"
ATTR_FALLBACK_LABEL = "lk.fallback.label"
ATTR_FALLBACK_RECOVERY = "lk.fallback.recovery"
ATTR_FUNCTION_TOOL_ID = "lk.function_tool.id"
ATTR_FUNCTION_TOOL_IS_ERROR = "lk.function_tool.is_error"
ATTR_FUNCTION_TOOL_NAME = "lk.function_tool.name"
ATTR_FUNCTION_TOOLS = "lk.function_tools"
ATTR_GENERATION_COUNT = "lk.generation_count"
ATTR_AGENT_TURN_ID = "lk.generation_id"
ATTR_INPUT_BASE_SPAN_ID = "lk.input.base_span_id"
ATTR_INPUT_DELTA = "lk.input.delta"
ATTR_INPUT_DROPPED_FROM_BASE = "lk.input.dropped_from_base"
ATTR_SPEECH_INTERRUPTED = "lk.interrupted"
ATTR_INTERRUPTION_DETECTION_DELAY = "lk.interruption.detection_delay"
ATTR_INTERRUPTION_PREDICTION_DURATION = "lk.interruption.prediction_duration"
ATTR_INTERRUPTION_PROBABILITY = "lk.interruption.probability"
ATTR_INTERRUPTION_SOURCE = "lk.interruption.source"
ATTR_INTERRUPTION_TOTAL_DURATION = "lk.interruption.total_duration"
ATTR_IS_INTERRUPTION = "lk.is_interruption"
ATTR_KEYTERMS_ADDED = "lk.keyterms.added"
ATTR_KEYTERMS_COUNT = "lk.keyterms.count"
ATTR_KEYTERMS_REMOVED = "lk.keyterms.removed"
ATTR_LLM_METRICS = "lk.llm_metrics"
ATTR_NEW_STATE = "lk.new_state"
ATTR_OLD_STATE = "lk.old_state"
ATTR_ON_USER_TURN_COMPLETED_DELAY = "lk.on_user_turn_completed_delay"
ATTR_AGENT_PARENT_TURN_ID = "lk.parent_generation_id"
ATTR_PLAYOUT_POSITION = "lk.playout.position"
ATTR_PREVIOUS_AGENT_LABEL = "lk.previous_agent_label"
ATTR_PROVIDER_REQUEST_IDS = "lk.provider_request_ids"
ATTR_PROVIDER_TOOLS = "lk.provider_tools"
ATTR_REALTIME_MODEL_METRICS = "lk.realtime_model_metrics"
ATTR_RESPONSE_TTFB = "lk.response.ttfb"
ATTR_RESPONSE_TTFT = "lk.response.ttft"
ATTR_RETRY_COUNT = "lk.retry_count"
ATTR_SPEECH_QUEUE_WAIT = "lk.speech.queue_wait"
ATTR_SPEECH_ID = "lk.speech_id"
ATTR_STT_EVENTS = "lk.stt.events"
ATTR_TOOL_SETS = "lk.tool_sets"
ATTR_TRANSCRIPT_CONFIDENCE = "lk.transcript_confidence"
ATTR_TRANSCRIPTION_DELAY = "lk.transcription_delay"
ATTR_TTS_LABEL = "lk.tts.label"
ATTR_TTS_STREAMING = "lk.tts.streaming"
ATTR_TTS_METRICS = "lk.tts_metrics"

# A blocked event loop
ATTR_BLOCKING_COUNT = "lk.blocking.count"
ATTR_BLOCKING_CPU_TIME = "lk.blocking.cpu_time"
ATTR_BLOCKING_DURATION = "lk.blocking.duration"
ATTR_BLOCKING_GC_TIME = "lk.blocking.gc_time"
ATTR_BLOCKING_IMPORT = "lk.blocking.import"
ATTR_BLOCKING_MAX_DURATION = "lk.blocking.max_duration"
ATTR_BLOCKING_SEVERITY = "lk.blocking.severity"
ATTR_BLOCKING_STACK = "lk.blocking.stack"
ATTR_BLOCKING_SUPPRESSED = "lk.blocking.suppressed"
ATTR_BLOCKING_TASK = "lk.blocking.task"
ATTR_BLOCKING_THRESHOLD = "lk.blocking.threshold"
ATTR_BLOCKING_TOTAL_DURATION = "lk.blocking.total_duration"

# What may identify a person or reveal what was said; dropped where that is not allowed
ATTR_AMD_TRANSCRIPT = "lk.pii.amd.transcript"
ATTR_CHAT_CTX = "lk.pii.chat_ctx"
ATTR_FUNCTION_TOOL_ARGS = "lk.pii.function_tool.arguments"
ATTR_FUNCTION_TOOL_OUTPUT = "lk.pii.function_tool.output"
ATTR_TTS_INPUT_TEXT = "lk.pii.input_text"
ATTR_INSTRUCTIONS = "lk.pii.instructions"
ATTR_PARTICIPANT_IDENTITY = "lk.pii.participant_identity"
ATTR_RESPONSE_FUNCTION_CALLS = "lk.pii.response.function_calls"
ATTR_RESPONSE_TEXT = "lk.pii.response.text"
ATTR_ROOM_NAME = "lk.pii.room_name"
ATTR_RPC_PAYLOAD = "lk.pii.rpc.payload"
ATTR_RPC_RESPONSE = "lk.pii.rpc.response"
ATTR_SIP_PHONE_NUMBER = "lk.pii.sip.phoneNumber"
ATTR_USER_INPUT = "lk.pii.user_input"
ATTR_USER_TRANSCRIPT = "lk.pii.user_transcript"

# OpenTelemetry semantic conventions for generative AI
ATTR_GEN_AI_AGENT_NAME = "gen_ai.agent.name"
ATTR_GEN_AI_CONVERSATION_ID = "gen_ai.conversation.id"
ATTR_GEN_AI_EVALUATION_EXPLANATION = "gen_ai.evaluation.explanation"
ATTR_GEN_AI_EVALUATION_NAME = "gen_ai.evaluation.name"
ATTR_GEN_AI_EVALUATION_SCORE_LABEL = "gen_ai.evaluation.score.label"
ATTR_GEN_AI_INPUT_MESSAGES = "gen_ai.input.messages"
ATTR_GEN_AI_MEMORY_QUERY_TEXT = "gen_ai.memory.query.text"
ATTR_GEN_AI_MEMORY_RECORDS = "gen_ai.memory.records"
ATTR_GEN_AI_OPERATION_NAME = "gen_ai.operation.name"
ATTR_GEN_AI_OUTPUT_MESSAGES = "gen_ai.output.messages"
ATTR_GEN_AI_OUTPUT_TYPE = "gen_ai.output.type"
ATTR_GEN_AI_PROMPT_VARIABLE = "gen_ai.prompt.variable"
ATTR_GEN_AI_PROVIDER_NAME = "gen_ai.provider.name"
ATTR_GEN_AI_REQUEST_MODEL = "gen_ai.request.model"
ATTR_GEN_AI_REQUEST_STREAM = "gen_ai.request.stream"
ATTR_GEN_AI_RESPONSE_FINISH_REASONS = "gen_ai.response.finish_reasons"
ATTR_GEN_AI_RESPONSE_ID = "gen_ai.response.id"
ATTR_GEN_AI_RESPONSE_MODEL = "gen_ai.response.model"
ATTR_GEN_AI_RESPONSE_TIME_TO_FIRST_CHUNK = "gen_ai.response.time_to_first_chunk"
ATTR_GEN_AI_RETRIEVAL_DOCUMENTS = "gen_ai.retrieval.documents"
ATTR_GEN_AI_RETRIEVAL_QUERY_TEXT = "gen_ai.retrieval.query.text"
ATTR_GEN_AI_SYSTEM_INSTRUCTIONS = "gen_ai.system_instructions"
ATTR_GEN_AI_TOKEN_TYPE = "gen_ai.token.type"
ATTR_GEN_AI_TOOL_CALL_ARGUMENTS = "gen_ai.tool.call.arguments"
ATTR_GEN_AI_TOOL_CALL_ID = "gen_ai.tool.call.id"
ATTR_GEN_AI_TOOL_CALL_RESULT = "gen_ai.tool.call.result"
ATTR_GEN_AI_TOOL_DEFINITIONS = "gen_ai.tool.definitions"
ATTR_GEN_AI_TOOL_DESCRIPTION = "gen_ai.tool.description"
ATTR_GEN_AI_TOOL_NAME = "gen_ai.tool.name"
ATTR_GEN_AI_TOOL_TYPE = "gen_ai.tool.type"
ATTR_GEN_AI_WORKFLOW_NAME = "gen_ai.workflow.name"

# Token usage. Names without a dot before the kind of token are read by Langfuse and Datadog
ATTR_GEN_AI_USAGE_AUDIO_CACHE_READ_INPUT_TOKENS = "gen_ai.usage.audio.cache_read.input_tokens"
ATTR_GEN_AI_USAGE_AUDIO_INPUT_TOKENS = "gen_ai.usage.audio.input_tokens"
ATTR_GEN_AI_USAGE_AUDIO_OUTPUT_TOKENS = "gen_ai.usage.audio.output_tokens"
ATTR_GEN_AI_USAGE_CACHE_READ_INPUT_TOKENS = "gen_ai.usage.cache_read.input_tokens"
ATTR_GEN_AI_USAGE_CACHE_WRITE_INPUT_TOKENS = "gen_ai.usage.cache_write.input_tokens"
ATTR_GEN_AI_USAGE_IMAGE_CACHE_READ_INPUT_TOKENS = "gen_ai.usage.image.cache_read.input_tokens"
ATTR_GEN_AI_USAGE_IMAGE_INPUT_TOKENS = "gen_ai.usage.image.input_tokens"
ATTR_GEN_AI_USAGE_INPUT_AUDIO_TOKENS = "gen_ai.usage.input_audio_tokens"
ATTR_GEN_AI_USAGE_INPUT_CACHED_TOKENS = "gen_ai.usage.input_cached_tokens"
ATTR_GEN_AI_USAGE_INPUT_TEXT_TOKENS = "gen_ai.usage.input_text_tokens"
ATTR_GEN_AI_USAGE_INPUT_TOKENS = "gen_ai.usage.input_tokens"
ATTR_GEN_AI_USAGE_OUTPUT_AUDIO_TOKENS = "gen_ai.usage.output_audio_tokens"
ATTR_GEN_AI_USAGE_OUTPUT_TEXT_TOKENS = "gen_ai.usage.output_text_tokens"
ATTR_GEN_AI_USAGE_OUTPUT_TOKENS = "gen_ai.usage.output_tokens"
ATTR_GEN_AI_USAGE_REASONING_OUTPUT_TOKENS = "gen_ai.usage.reasoning.output_tokens"
ATTR_GEN_AI_USAGE_REASONING_TOKENS = "gen_ai.usage.reasoning_tokens"
ATTR_GEN_AI_USAGE_TEXT_CACHE_READ_INPUT_TOKENS = "gen_ai.usage.text.cache_read.input_tokens"
ATTR_GEN_AI_USAGE_TEXT_INPUT_TOKENS = "gen_ai.usage.text.input_tokens"
ATTR_GEN_AI_USAGE_TEXT_OUTPUT_TOKENS = "gen_ai.usage.text.output_tokens"

# Other conventions
ATTR_ERROR_TYPE = "error.type"
ATTR_EXCEPTION_MESSAGE = "exception.message"
ATTR_EXCEPTION_TRACE = "exception.stacktrace"
ATTR_EXCEPTION_TYPE = "exception.type"
ATTR_LANGFUSE_COMPLETION_START_TIME = "langfuse.observation.completion_start_time"
ATTR_RPC_METHOD = "rpc.method"

# Names of events
EVENT_GEN_AI_ASSISTANT_MESSAGE = "gen_ai.assistant.message"
EVENT_GEN_AI_CHOICE = "gen_ai.choice"
EVENT_GEN_AI_CLIENT_INFERENCE_OPERATION_DETAILS = "gen_ai.client.inference.operation.details"
EVENT_GEN_AI_SYSTEM_MESSAGE = "gen_ai.system.message"
EVENT_GEN_AI_TOOL_MESSAGE = "gen_ai.tool.message"
EVENT_GEN_AI_USER_MESSAGE = "gen_ai.user.message"

# Names of metrics
METRIC_GEN_AI_CLIENT_OPERATION_DURATION = "gen_ai.client.operation.duration"
METRIC_GEN_AI_CLIENT_TIME_TO_FIRST_CHUNK = "gen_ai.client.operation.time_to_first_chunk"
METRIC_GEN_AI_CLIENT_TOKEN_USAGE = "gen_ai.client.token.usage"
METRIC_GEN_AI_EXECUTE_TOOL_DURATION = "gen_ai.execute_tool.duration"
METRIC_GEN_AI_INVOKE_AGENT_DURATION = "gen_ai.invoke_agent.duration"


class GenAIFinishReason:
    """Why a model stopped."""

    COMPACTION = "compaction"
    CONTENT_FILTER = "content_filter"
    ERROR = "error"
    LENGTH = "length"
    STOP = "stop"
    TOOL_CALL = "tool_call"


class GenAIOperationName:
    """What a span of generative AI does."""

    CHAT = "chat"
    CREATE_AGENT = "create_agent"
    CREATE_MEMORY = "create_memory"
    CREATE_MEMORY_STORE = "create_memory_store"
    DELETE_MEMORY = "delete_memory"
    DELETE_MEMORY_STORE = "delete_memory_store"
    EMBEDDINGS = "embeddings"
    EXECUTE_TOOL = "execute_tool"
    FETCH_RESPONSE = "fetch_response"
    GENERATE_CONTENT = "generate_content"
    INVOKE_AGENT = "invoke_agent"
    INVOKE_WORKFLOW = "invoke_workflow"
    PLAN = "plan"
    RETRIEVAL = "retrieval"
    SEARCH_MEMORY = "search_memory"
    TEXT_COMPLETION = "text_completion"
    UPDATE_MEMORY = "update_memory"
    UPSERT_MEMORY = "upsert_memory"


class GenAIOutputType:
    """What kind of output was asked for."""

    IMAGE = "image"
    JSON = "json"
    SPEECH = "speech"
    TEXT = "text"


_PROVIDER_ALIASES = {
    "openai": ("api.openai.com",),
    "gcp.gen_ai": ("google", "google gen ai", "google genai"),
    "gcp.vertex_ai": ("vertex", "vertex ai", "vertexai", "google vertex", "google vertex ai"),
    "gcp.gemini": ("gemini", "google gemini", "generativelanguage.googleapis.com"),
    "anthropic": ("api.anthropic.com", "claude"),
    "cohere": ("api.cohere.com", "api.cohere.ai"),
    "azure.ai.inference": ("azure", "azure ai", "azure ai inference"),
    "azure.ai.openai": ("azure openai", "azureopenai"),
    "ibm.watsonx.ai": ("ibm", "watsonx", "ibm watsonx", "watsonx.ai"),
    "aws.bedrock": ("aws", "bedrock", "aws bedrock", "amazon bedrock"),
    "perplexity": ("api.perplexity.ai", "perplexity ai"),
    "x_ai": ("xai", "x.ai", "api.x.ai", "grok"),
    "deepseek": ("api.deepseek.com",),
    "groq": ("api.groq.com",),
    "mistral_ai": ("mistral", "mistralai", "api.mistral.ai"),
    "moonshot_ai": ("moonshot", "moonshotai", "api.moonshot.ai", "api.moonshot.cn"),
}

_PROVIDER_DOMAINS = {
    ".aiplatform.googleapis.com": "gcp.vertex_ai",
    "-aiplatform.googleapis.com": "gcp.vertex_ai",
    ".openai.azure.com": "azure.ai.openai",
    ".services.ai.azure.com": "azure.ai.inference",
    ".inference.ai.azure.com": "azure.ai.inference",
    ".ml.cloud.ibm.com": "ibm.watsonx.ai",
    ".amazonaws.com": "aws.bedrock",
}

GEN_AI_PROVIDER_NAMES = frozenset(_PROVIDER_ALIASES)
"""The providers that the semantic conventions give a name."""


def _spelling(name: str) -> str:
    return name.strip().lower().replace("_", " ").replace("-", " ")


_PROVIDERS = {
    _spelling(spelling): name
    for name, aliases in _PROVIDER_ALIASES.items()
    for spelling in (name, *aliases)
}


def gen_ai_provider_name(provider: str | None) -> str | None:
    """Spell a provider as the semantic conventions do.

    Args:
        provider: a display name (`"Azure OpenAI"`), a host name or a URL (`"api.openai.com"`).

    Returns:
        A member of `GEN_AI_PROVIDER_NAMES`; `provider` itself if it is none of them; None if empty.
    """
    if not provider or not provider.strip():
        return None
    if known := _PROVIDERS.get(_spelling(provider)):
        return known
    host = (urlsplit(provider).hostname or "") if "://" in provider else provider.strip().lower()
    if known := _PROVIDERS.get(_spelling(host)):
        return known
    for domain, name in _PROVIDER_DOMAINS.items():
        if host.endswith(domain):
            return name
    return provider


def gen_ai_model_attributes(model: str | None, provider: str | None) -> dict[str, str]:
    """Return the attributes that name a model that is asked; without what is not known.

    Args:
        model: the model's name.
        provider: as for `gen_ai_provider_name`.
    """
    attributes = {
        ATTR_GEN_AI_REQUEST_MODEL: model,
        ATTR_GEN_AI_PROVIDER_NAME: gen_ai_provider_name(provider),
    }
    return {key: value for key, value in attributes.items() if value}
