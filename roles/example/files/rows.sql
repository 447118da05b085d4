INSERT INTO events (user_id, event_type) VALUES
    (1, 'login'), (1, 'purchase'), (2, 'login'), (3, 'login'), (3, 'logout'), (2, 'purchase')
