"""Events to other systems: webhooks, MQTT, notifications. Each is imported only if the settings name it."""
