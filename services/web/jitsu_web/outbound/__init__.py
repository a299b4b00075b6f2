"""Events for other systems: webhooks, MQTT, and notifications."""
